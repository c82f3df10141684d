"""How the weights of a checkpoint are stored that is quantised already, by its config."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, cast

import transformers
from torch import nn
from transformers.pytorch_utils import Conv1D
from transformers.quantizers import AutoHfQuantizer
from transformers.quantizers.base import HfQuantizer
from transformers.quantizers.quantizers_utils import should_convert_module

from autopeft.errors import ModelError

# Bytes per weight. NF4 with constants quantised once more: half a byte, one byte per block of 64 weights, and
# one float32 per 256 such bytes (Dettmers et al. 2023, arXiv:2305.14314, section 3). LLM.int8: one byte, and
# one float32 per row, which is left out.
BYTES_PER_WEIGHT = {"4bit": 1 / 2 + 1 / 64 + 4 / (64 * 256), "8bit": 1.0}
_SINGLE_QUANT = 1 / 2 + 4 / 64  # 4 bits with constants in float32
_SCALE_BYTES = 2  # of a group of weights, in float16
_GROUPED = ("gptq", "awq")  # integers in groups, with a scale and a zero point of their own
_READ_PLAIN = "gguf"  # a file whose weights transformers reads in plain numbers
_LOADED_PLAIN = "mxfp4"  # no gradient passes through its kernels


@dataclass(frozen=True, kw_only=True)
class StoredWeights:
    """How a checkpoint holds its linear maps that is quantised already.

    `method` is the quantisation, as transformers names it. `quantize` is `4bit` or `8bit` by bitsandbytes,
    else `none`. `weight_bytes` are those of one weight of a map; None where the maps are loaded, or counted,
    as plain ones. `skipped` are the modules that stay plain; None are those that transformers leaves out.
    """

    method: str
    quantize: str = "none"
    weight_bytes: float | None = None
    skipped: tuple[str, ...] | None = None

    @property
    def is_loaded_plain(self) -> bool:
        """Whether the weights are dequantised when the model is loaded to be trained."""
        return self.method == _LOADED_PLAIN

    def kept_modules(self, module: nn.Module) -> tuple[str, ...]:
        """Names of the linear maps of a model that are not quantised."""
        patterns = HfQuantizer.get_modules_to_not_convert(
            module,
            None if self.skipped is None else list(self.skipped),
            getattr(module, "_keep_in_fp32_modules", None),
            add_default_skips=self.method == "awq",
        )
        maps = [name for name, child in module.named_modules() if isinstance(child, nn.Linear | Conv1D)]
        return tuple(name for name in maps if not should_convert_module(name, patterns))


def stored_weights(config: Any) -> StoredWeights | None:
    """How the weights are stored that go with a transformers config; None where they are plain.

    Example:
        >>> from transformers import LlamaConfig
        >>> config = LlamaConfig(quantization_config={"quant_method": "gptq", "bits": 4, "group_size": 128})
        >>> stored_weights(config).weight_bytes
        0.51953125
    """
    given = getattr(config, "quantization_config", None)
    if given is None:
        return None
    settings = given if isinstance(given, dict) else given.to_dict()
    named = settings.get("quant_method")
    method = str(getattr(named, "value", named))
    skipped = settings.get("llm_int8_skip_modules") or settings.get("modules_to_not_convert")
    kept = None if skipped is None else tuple(skipped)
    if method == "bitsandbytes":
        quantize = "4bit" if settings.get("load_in_4bit") or settings.get("_load_in_4bit") else "8bit"
        is_single = quantize == "4bit" and not settings.get("bnb_4bit_use_double_quant")
        weight_bytes = _SINGLE_QUANT if is_single else BYTES_PER_WEIGHT[quantize]
        return StoredWeights(method=method, quantize=quantize, weight_bytes=weight_bytes, skipped=kept)
    if method in _GROUPED and settings.get("bits"):
        share, group = settings["bits"] / 8, settings.get("group_size") or 0
        weight_bytes = share + ((_SCALE_BYTES + share) / group if group > 0 else 0)
        return StoredWeights(method=method, weight_bytes=weight_bytes, skipped=kept)
    return StoredWeights(method=method, skipped=kept)


def require_plain_weights(config: Any, name: str) -> None:
    """Raise a ModelError for a model that `--quantize` cannot quantise, since it is quantised already."""
    stored = stored_weights(config)
    if stored is not None:
        raise ModelError(f"{name} is quantised already ({stored.method}); leave --quantize out.")


def require_reader(config: Any) -> None:
    """Raise what transformers does where it could not load weights in few bits: a package is missing, say."""
    given = getattr(config, "quantization_config", None) or getattr(
        config.get_text_config(decoder=True), "quantization_config", None
    )
    settings = given if given is None or isinstance(given, dict) else given.to_dict()
    if settings is None or dequantising(config) or not AutoHfQuantizer.supports_quant_method(settings):
        return
    AutoHfQuantizer.from_config(copy.deepcopy(settings), pre_quantized=True).validate_environment()


def dequantising(config: Any) -> dict[str, Any]:
    """The arguments of `from_pretrained` that make plain weights where no gradient would pass else."""
    stored = stored_weights(config)
    if stored is None or not stored.is_loaded_plain:
        return {}
    return {"quantization_config": transformers.Mxfp4Config(dequantize=True)}


def require_trainable(module: nn.Module, name: str) -> None:
    """Raise a ModelError for a loaded model whose quantised maps pass no gradient to adapters."""
    quantiser = cast(Any, getattr(module, "hf_quantizer", None))
    if quantiser is None:
        return
    settings = quantiser.quantization_config
    method = str(getattr(settings.quant_method, "value", settings.quant_method))
    is_plain = method == _READ_PLAIN or getattr(settings, "dequantize", False)
    if not is_plain and not quantiser.is_trainable:
        raise ModelError(
            f"{name} is quantised already ({method}) and cannot be trained so; pass --model with the plain "
            "checkpoint."
        )

"""Base models in few bits, through bitsandbytes: how they are asked for, and maps that keep their numbers."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Any, cast

import torch
import torch.nn.functional as F
import transformers
from torch import nn
from transformers.pytorch_utils import Conv1D

from autopeft.errors import ModelError
from autopeft.model.shapes import is_quantised, map_shape, n_bits, plain_weight
from autopeft.records import QUANTISED

_TOLERANCE = 0.05  # of what a map can give at most; 8 bits of an input round by 0.4 %, bfloat16 as much
_PROBE_ROWS = 4
_REPACKS = "support_avx512bf16_for_cpu"  # a flag of bitsandbytes' layers

log = logging.getLogger(__name__)


def require_quantiser(asked: str, device: torch.device) -> None:
    """Refuse to quantise without bitsandbytes, or where it has no kernels.

    Raises:
        ModelError: So it is.
    """
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ModelError(
            f'--quantize {asked} needs bitsandbytes; install it with: pip install "autopeft[quantize]".'
        )
    import bitsandbytes

    hush()
    known = getattr(bitsandbytes, "supported_torch_devices", {device.type})
    if device.type not in known:
        raise ModelError(
            f"bitsandbytes computes on {', '.join(sorted(known - {'npu', 'hpu'}))}, not on {device.type}; "
            "pass another --device, or leave --quantize out."
        )


def hush() -> None:
    """Let bitsandbytes tell of errors alone: in 8 bits it warns of its casts at every map of every step."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def settings(asked: str, kept: Iterable[str], *, dtype: str) -> Any:
    """What `transformers` is asked for: all maps in few bits but the `kept` modules.

    Left alone, `transformers` would quantise a new task head too, of which there is nothing to quantise: it
    would stay without weights (transformers 5.24).

    Args:
        asked: `4bit` (NF4, scales quantised once more) or `8bit` (LLM.int8).
        kept: Names of modules that stay as they are, insides included.
        dtype: What maps of 4 bits are multiplied in: float32 or bfloat16.
    """
    computes = {"bnb_4bit_compute_dtype": dtype} if asked == "4bit" else {}
    return transformers.BitsAndBytesConfig(
        **QUANTISED[asked], **computes, llm_int8_skip_modules=list(dict.fromkeys(kept))
    )


def output_name(module: nn.Module) -> tuple[str, ...]:
    """The name of a language model's output layer, which stays in plain numbers, as in QLoRA."""
    output = cast(Any, getattr(module, "get_output_embeddings", lambda: None))()
    return tuple(name for name, child in module.named_modules() if output is not None and child is output)


def quantised_among(module: nn.Module, names: Iterable[str]) -> tuple[str, ...]:
    """The maps made for few bits that some parameters belong to, there or not."""
    parents = dict.fromkeys(name.rpartition(".")[0] for name in sorted(names))
    kinds = {name: type(module.get_submodule(name)) for name in parents}
    return tuple(name for name, kind in kinds.items() if kind.__module__.startswith("bitsandbytes."))


def kept_plain(module: nn.Module) -> tuple[str, ...]:
    """The modules that were left out when a model was quantised by bitsandbytes."""
    config = getattr(getattr(module, "config", None), "quantization_config", None)
    return tuple(getattr(config, "llm_int8_skip_modules", None) or ())


def steady(module: nn.Module) -> Callable[[], None]:
    """Let bitsandbytes' maps keep their numbers; gives what puts all back.

    On processors with AVX-512 for bfloat16 maps of 4 bits store themselves anew, rounded, when they are first
    evaluated, and cannot be trained through any more; and their biases take on the type that they are
    computed in at the first call (bitsandbytes 0.50.2). So the one is turned off, the other done beforehand.
    On a CPU `peft` 0.21.2 loses the scales of a map of 8 bits when it reads it back, as DoRA does at each
    step; they are handed over.
    """
    maps = [cast(Any, child) for child in module.modules() if n_bits(child)]
    found = [(own, getattr(own, _REPACKS, None), None if own.bias is None else own.bias.data) for own in maps]
    hooks = [own.register_forward_pre_hook(_keep_scales) for own in maps if n_bits(own) == 8]
    for own, repacks, bias in found:
        if repacks is not None:
            setattr(own, _REPACKS, False)
        if bias is not None and getattr(own, "compute_dtype", None) is not None:
            own.bias.data = bias.to(own.compute_dtype)

    def put_back() -> None:
        for hook in hooks:
            hook.remove()
        for own, repacks, bias in found:
            if repacks is not None:
                setattr(own, _REPACKS, repacks)
            if bias is not None:
                own.bias.data = bias

    return put_back


def _keep_scales(layer: Any, inputs: Any) -> None:
    if layer.weight.CB is not None and layer.weight.SCB is None:
        layer.weight.SCB = layer.state.SCB


@contextlib.contextmanager
def rows_apart(module: nn.Module) -> Iterator[None]:
    """Let maps of 8 bits multiply each row by itself; else an outlier in one changes how all are rounded."""
    states = [cast(Any, child).state for child in module.modules() if n_bits(child) == 8]
    thresholds = [state.threshold for state in states]
    for state in states:
        state.threshold = 0.0
    try:
        yield
    finally:
        for state, threshold in zip(states, thresholds, strict=True):
            state.threshold = threshold


def require_sound(module: nn.Module, name: str) -> None:
    """Refuse a model with maps that bitsandbytes computes wrong or not at all; one of each shape is tried.

    Raises:
        ModelError: With the sizes of the map and the reason.
    """
    tried = set()
    for child in module.modules():
        shape = map_shape(child)
        if not n_bits(child) or shape in tried:
            continue
        tried.add(shape)
        fault = _fault(child)
        if fault is not None:
            _, n_in, n_out = cast("tuple[str, int, int]", shape)
            raise ModelError(
                f"{name} has maps of {n_in} inputs and {n_out} outputs, which bitsandbytes cannot compute in "
                f"{n_bits(child)} bits here ({fault}); leave --quantize out, or ask for other bits."
            )
    if not tried:
        raise ModelError(f"{name} has no linear map that bitsandbytes quantises; leave --quantize out.")
    _tell_size(module, name)


def _fault(layer: nn.Module) -> str | None:
    """What is wrong with a map: it raises, or gives something else than its own weights say."""
    _, n_in, _ = cast("tuple[str, int, int]", map_shape(layer))
    weight = cast(torch.Tensor, plain_weight(layer)).float()
    drawn = torch.randn(1, _PROBE_ROWS, n_in, generator=torch.Generator().manual_seed(0)).to(weight.device)
    bias = cast("torch.Tensor | None", layer.bias)
    expected = F.linear(drawn, weight, None if bias is None else bias.float())
    bound = float(F.linear(drawn.abs(), weight.abs()).max()) or 1.0
    was_training = layer.training
    try:
        for is_training in (True, False):
            layer.train(is_training)
            with torch.no_grad():
                found = [layer(drawn)]
            inputs = drawn.clone().requires_grad_()
            found.append(layer(inputs))
            found[1].sum().backward()
            off = max(float((own.detach().float() - expected).abs().max()) / bound for own in found)
            if not off <= _TOLERANCE:
                return f"off by {off:.0%} of the largest possible"
    except (RuntimeError, AssertionError, ValueError, NotImplementedError, TypeError) as error:
        return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
    finally:
        layer.train(was_training)
    return None


def _tell_size(module: nn.Module, name: str) -> None:
    maps = [child for child in module.modules() if n_bits(child)]
    sizes = (map_shape(child) for child in maps)
    n_weights = sum(shape[1] * shape[2] for shape in sizes if shape is not None)
    log.info(
        "%s: %s weights of %d maps in %d bits by bitsandbytes, all else in float32.",
        name,
        f"{n_weights:,}",
        len(maps),
        n_bits(maps[0]),
    )


def as_quantised(module: nn.Module) -> None:
    """Give a skeleton the maps that a quantised model has: GPT-2's Conv1D become linear ones, in place."""
    for name, child in list(module.named_modules()):
        if not isinstance(child, Conv1D):
            continue
        n_in, n_out = child.weight.shape
        made = nn.Linear(n_in, n_out, bias=child.bias is not None, device=child.weight.device)
        module.set_submodule(name, made)


def dequantised(module: nn.Module) -> None:
    """Put a model's maps of few bits back into plain numbers, those that it computed with, in place."""
    for name, child in list(module.named_modules()):
        if not n_bits(child):
            continue
        _, n_in, n_out = cast("tuple[str, int, int]", map_shape(child))
        weight = cast(torch.Tensor, plain_weight(child)).float()
        made: nn.Module
        if getattr(child, "source_cls", nn.Linear) is Conv1D:
            made, weight = Conv1D(n_out, n_in), weight.T.contiguous()
        else:
            made = nn.Linear(n_in, n_out, bias=child.bias is not None)
        own = cast(Any, made)
        own.weight = nn.Parameter(weight, requires_grad=False)
        if child.bias is not None:
            own.bias = nn.Parameter(cast(torch.Tensor, child.bias).float(), requires_grad=False)
        module.set_submodule(name, made.train(child.training))
    quantiser = cast(Any, getattr(module, "hf_quantizer", None))
    if quantiser is not None and not any(map(is_quantised, module.modules())):  # GGUF has one too
        quantiser.remove_quantization_config(module)
    for mark in ("is_loaded_in_4bit", "is_loaded_in_8bit"):  # by which peft chooses its layers
        if hasattr(module, mark):
            delattr(module, mark)

"""Loads a base model with head and tokenizer, or builds its skeleton without weights."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import transformers

from autopeft.errors import ModelError
from autopeft.model.base import BaseModel
from autopeft.model.checkpoint_source import (
    config_of,
    counting_class,
    loading_class,
    name_first_token,
    name_labels,
    pretrained_arguments,
    reading,
    reads_images,
    require_class,
    resolve,
)
from autopeft.model.checks import pad_with, prepare_base, require_targets, usable_tokenizer
from autopeft.model.components import head_names
from autopeft.model.devices import SPREAD, Precision, device_names, find_device, has_used_gpus, make_current
from autopeft.model.linear_layers import n_params
from autopeft.model.quantization import (
    conv1d_to_linear,
    dequantizing,
    log_quantized,
    output_layer_names,
    plain_experts_note,
    quantization_config,
    quantized_owners,
    require_plain_weights,
    require_trainable,
    stop_mutation,
    stored_weights,
    widen_norms,
)
from autopeft.types import ModelSpec, listed
from autopeft.types.plans import LAYER

log = logging.getLogger(__name__)


def load(
    spec: ModelSpec,
    *,
    auto_class: str,
    label_names: Sequence[str],
    needs_tokenizer: bool = True,
    needs_padding: bool = True,
    device: str | None = None,
    precision: Precision | None = None,
) -> BaseModel:
    """Load a base model with a task head of the right size, and its tokenizer.

    `auto_class` names the transformers class; a language model has no label names. With `needs_padding`, a
    tokenizer without a padding token gets one. `precision` is the format of the weights and of products of
    4-bit layers; the task head is float32, and None is float32.

    Raises ModelError for a model that is missing or unreadable, or cannot be quantized here, and TargetError
    for one without a linear layer or norm to adapt.
    """
    precision = precision or Precision()
    source, name = resolve(spec)
    config = config_of(spec)
    class_name = loading_class(config, auto_class)
    require_class(config, class_name, name=name)
    reader = _Reader(
        spec=spec,
        config=config,
        class_name=class_name,
        label_names=label_names,
        device=find_device(device),
        is_spread=device_names(device)[0] == SPREAD,
        dtype=precision.dtype,
    )
    make_current(reader.device)
    module, checkpoint = reader.read_plain() if spec.quantize == "none" else reader.read_quantized()
    stop_mutation(module, scales_gradients=precision.dtype == "float16")
    tokenizer = None
    with contextlib.nullcontext() if needs_tokenizer else contextlib.suppress(ModelError):
        tokenizer = load_processor(spec, needs_images=reads_images(auto_class), needs_padding=needs_padding)
    with reading(source):
        if needs_padding and getattr(tokenizer, "pad_token_id", None) is not None:
            pad_with(module.config, tokenizer.pad_token_id)
        name_first_token(module.config, getattr(module, "generation_config", None))
        if label_names:
            name_labels(module.config, label_names)
        _require_complete(module, name, checkpoint)
        untrained = _missing_keys(checkpoint)
        base = BaseModel(
            module,
            tokenizer,
            name=name,
            untrained=untrained,
            precision=precision,
            components=spec.components,
        )
        base.widen_head()
        prepare_base(base, auto_class=auto_class)
    return base


def load_skeleton(
    spec: ModelSpec,
    *,
    auto_class: str | None,
    here_only: bool = False,
    n_layers: int | None = None,
) -> BaseModel:
    """Build a base model on the meta device from its config: all modules, no weights.

    Without an `auto_class` of transformers it is what a search of texts would load, else the architecture
    that the config names. With `here_only` only a directory or the hub's cache is read. `n_layers` builds
    only the first layers. Raises ModelError or TargetError for a model that cannot be built or adapted.
    """
    source, name = resolve(spec)
    config = config_of(spec, here_only=here_only)
    with reading(source):
        if n_layers is not None:
            text = config.get_text_config()
            text.num_hidden_layers = n_layers
            if isinstance(vars(text).get("layer_types"), list):  # some derive it from the number of layers
                text.layer_types = text.layer_types[:n_layers]
        name_first_token(config)
        class_name = counting_class(config, auto_class)
        require_class(config, class_name, name=name)
        builder = getattr(transformers, class_name)
        with torch.device("meta"):
            module = getattr(builder, "from_config", builder)(config)
        stored = stored_weights(config)
        if spec.quantize != "none" or (stored is not None and stored.quantize != "none"):
            conv1d_to_linear(module)
        base = BaseModel(module, None, name=name, untrained=frozenset(), components=spec.components)
    require_targets(base)
    return base


def require_packages(spec: ModelSpec) -> None:
    """Raise ModelError for a missing package, an unreadable config, or a second quantization."""
    if spec.quantize != "none" and importlib.util.find_spec("bitsandbytes") is None:
        raise ModelError(
            f"--quantize {spec.quantize} needs bitsandbytes; install it with: pip install bitsandbytes."
        )
    if spec.id is not None and spec.id.endswith(".gguf"):
        pretrained_arguments(spec.id, spec)
        return
    config = config_of(spec)
    if spec.quantize != "none":
        require_plain_weights(config, resolve(spec)[1])


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """Silence progress bars and load reports of transformers within a context."""
    verbosity, had_bars = transformers.logging.get_verbosity(), transformers.logging.is_progress_bar_enabled()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers.logging.set_verbosity(verbosity)
        if had_bars:
            transformers.logging.enable_progress_bar()


@dataclass(frozen=True, kw_only=True)
class _Reader:
    """Reads a checkpoint; methods return the model and transformers' loading report."""

    spec: ModelSpec
    config: Any
    class_name: str
    label_names: Sequence[str]
    device: torch.device
    is_spread: bool
    dtype: str

    def read_plain(self) -> tuple[Any, Mapping[str, Any]]:
        """Read a model whose format is that of the checkpoint."""
        source, name = resolve(self.spec)
        settings = dequantizing(self.config)
        if self.is_spread:
            settings["device_map"] = SPREAD
        elif self.device.type == "cuda" and not self.label_names and not source.endswith(".gguf"):
            # Weights stream to the GPU, without a copy in host memory. A fresh head is drawn on the CPU,
            # whose numbers are the same everywhere.
            settings["device_map"] = {"": self.device}
        module, checkpoint = self._read(**settings)
        require_trainable(module, name)
        return module if self.is_spread else module.to(self.device), checkpoint

    def read_quantized(self) -> tuple[Any, Mapping[str, Any]]:
        """Read a model and quantize it, except for head, output layer and layers without weights.

        Reading shows which weights are missing, so that a model without a pooler, say, is read twice. All is
        read in the format that the model computes in: it takes less memory, and 4-bit layers unpack to it.
        """
        skeleton = load_skeleton(self.spec, auto_class=self.class_name)
        require_plain_weights(self.config, skeleton.name)
        skipped = [*skeleton.head_names, *output_layer_names(skeleton.module)]
        device_map = SPREAD if self.is_spread else {"": self.device}
        while True:
            config = quantization_config(self.spec.quantize, skipped, dtype=self.dtype)
            module, checkpoint = self._read(quantization_config=config, device_map=device_map)
            missing = quantized_owners(module, _missing_keys(checkpoint))
            if not missing:
                break
            skipped += missing
        widen_norms(module)
        if self.device.type == "cpu":
            # A view of the checkpoint would keep its whole file mapped, several times as large.
            for parameter in module.parameters():
                if parameter.is_floating_point():
                    parameter.data = parameter.data.clone()
        log_quantized(module, skeleton.name)
        bits, n_weights = self.spec.quantize, n_params(module)
        if note := plain_experts_note(module, bits, n_weights=n_weights, dtype=self.dtype):
            log.warning(note)
        return module, checkpoint

    def _read(self, **settings: Any) -> tuple[Any, Mapping[str, Any]]:
        """Read the checkpoint with these settings of `from_pretrained`."""
        source, name = resolve(self.spec)
        if self.label_names:  # `num_labels` too: the configs of timm and PVT have a field of that name
            settings["id2label"] = dict(enumerate(self.label_names))
            settings["label2id"] = {label: index for index, label in enumerate(self.label_names)}
            settings["num_labels"] = len(self.label_names)
        gpus = range(torch.cuda.device_count()) if has_used_gpus() else ()
        with reading(source), torch.random.fork_rng(devices=gpus):
            torch.manual_seed(0)  # missing weights are drawn alike in every process
            module, checkpoint = getattr(transformers, self.class_name).from_pretrained(
                **pretrained_arguments(source, self.spec),
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                dtype=getattr(torch, self.dtype),
                **settings,
            )
        places = getattr(module, "hf_device_map", {"": next(module.parameters()).device.type})
        if self.is_spread and not {"cpu", "disk"}.isdisjoint(places.values()):
            raise ModelError(
                f"{name} does not fit into the {torch.cuda.device_count()} GPUs of this machine together; "
                "pass --quantize 4bit, take a smaller model, or train in shards by autopeft tune."
            )
        return module, checkpoint


def _missing_keys(checkpoint: Mapping[str, Any]) -> frozenset[str]:
    return frozenset(checkpoint["missing_keys"]) | frozenset(key[0] for key in checkpoint["mismatched_keys"])


def load_processor(spec: ModelSpec, *, needs_images: bool = False, needs_padding: bool = True) -> Any:
    """Load a model's image processor or tokenizer, with a padding token if needed."""
    source, name = resolve(spec)
    auto = transformers.AutoImageProcessor if needs_images else transformers.AutoTokenizer
    with reading(source):
        processor = auto.from_pretrained(**pretrained_arguments(source, spec))
    return usable_tokenizer(processor, name) if needs_padding and not needs_images else processor


def _require_complete(module: Any, name: str, checkpoint: Mapping[str, Any]) -> None:
    """Warn of a replaced head; raise ModelError for other shapes and for missing layers."""
    head = tuple(f"{child}." for child in head_names(module))
    mismatched = sorted(checkpoint["mismatched_keys"])  # (name, stored shape, built shape)
    absent = [key for key in sorted(checkpoint["missing_keys"]) if LAYER.search(key)]
    if odd := [key for key in (*absent, *(key for key, *_ in mismatched)) if not key.startswith(head)]:
        raise ModelError(
            f"The weights of {name} have no {listed(odd, 1)} of the shape that its config.json describes; "
            "put the config.json and the weights of one model together."
        )
    outputs = [(stored[0], built[0]) for key, stored, built in mismatched if key.endswith("weight")]
    if outputs:
        text = "%s has a head of %d outputs and %d are needed; its head is not used."
        log.warning(text, name, *outputs[-1])

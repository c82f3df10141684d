"""Loads a base model with head and tokenizer, or builds its skeleton without weights."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
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
from autopeft.model.devices import SPREAD, Precision, device_names, find_device, forked_rng, make_current
from autopeft.model.linear_layers import n_bits, n_params, output_layer_names
from autopeft.model.quantization import (
    conv1d_to_linear,
    dequantizing,
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
    place = find_device(device)
    make_current(place)
    device_map = SPREAD if device_names(device)[0] == SPREAD else {"": place}
    read = partial(_read, spec, class_name=class_name, label_names=label_names, dtype=precision.dtype)
    if spec.quantize != "none":
        skeleton = load_skeleton(spec, auto_class=class_name)
        module, checkpoint = _read_quantized(read, skeleton, spec.quantize, device_map, dtype=precision.dtype)
    else:
        settings = dequantizing(config)
        if device_map == SPREAD or (
            place.type == "cuda" and not label_names and not source.endswith(".gguf")
        ):
            # Weights stream to the GPU, without a copy in host memory. A fresh head is drawn on the CPU,
            # whose numbers are the same everywhere.
            settings["device_map"] = device_map
        module, checkpoint = read(**settings)
        require_trainable(module, name)
        if device_map != SPREAD:
            module.to(place)
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
    n_layers: int | None = None,
) -> BaseModel:
    """Build a base model on the meta device from its config: all modules, no weights.

    Without an `auto_class` of transformers it is what a search of texts would load, else the architecture
    that the config names. `n_layers` builds only the first layers. Raises ModelError or TargetError for a
    model that cannot be built or adapted.
    """
    source, name = resolve(spec)
    config = config_of(spec)
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


def _read_quantized(
    read: Callable[..., tuple[Any, Mapping[str, Any]]],
    skeleton: BaseModel,
    bits: str,
    device_map: object,
    *,
    dtype: str,
) -> tuple[Any, Mapping[str, Any]]:
    """Read a model and quantize it, except for head, output layer and layers without weights.

    Reading shows which weights are missing, so that a model without a pooler, say, is read twice. All is read
    in the format that the model computes in: it takes less memory, and 4-bit layers unpack to it.
    """
    require_plain_weights(skeleton.module.config, skeleton.name)
    skipped = [*skeleton.head_names, *output_layer_names(skeleton.module)]
    while True:
        config = quantization_config(bits, skipped, dtype=dtype)
        module, checkpoint = read(quantization_config=config, device_map=device_map)
        missing = quantized_owners(module, _missing_keys(checkpoint))
        if not missing:
            break
        skipped += missing
    widen_norms(module)
    for parameter in module.parameters():
        if parameter.device.type == "cpu" and parameter.is_floating_point():
            # A view of the checkpoint would keep its whole file mapped, several times as large.
            parameter.data = parameter.data.clone()
    n_layers = sum(n_bits(child) > 0 for child in module.modules())
    if n_layers == 0:
        raise ModelError(
            f"{skeleton.name} has no linear layer that bitsandbytes quantizes; leave --quantize out."
        )
    text = "%s: bitsandbytes holds %d linear layers in %s; what is trained is float32."
    log.info(text, skeleton.name, n_layers, bits)
    if note := plain_experts_note(module, bits, n_weights=n_params(module), dtype=dtype):
        log.warning(note)
    return module, checkpoint


def _read(
    spec: ModelSpec, *, class_name: str, label_names: Sequence[str], dtype: str, **settings: Any
) -> tuple[Any, Mapping[str, Any]]:
    """Read a checkpoint with settings of `from_pretrained`; return transformers' loading report too."""
    source, name = resolve(spec)
    if label_names:  # `num_labels` too: the configs of timm and PVT have a field of that name
        settings["id2label"] = dict(enumerate(label_names))
        settings["label2id"] = {label: index for index, label in enumerate(label_names)}
        settings["num_labels"] = len(label_names)
    with reading(source), forked_rng():
        torch.manual_seed(0)  # missing weights are drawn alike in every process
        module, checkpoint = getattr(transformers, class_name).from_pretrained(
            **pretrained_arguments(source, spec),
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            dtype=getattr(torch, dtype),
            **settings,
        )
    places = getattr(module, "hf_device_map", {"": next(module.parameters()).device.type})
    if settings.get("device_map") == SPREAD and not {"cpu", "disk"}.isdisjoint(places.values()):
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

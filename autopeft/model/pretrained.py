"""Loads a base model with task head and tokenizer, or builds its skeleton without weights for counting."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import transformers

from autopeft.errors import ModelError
from autopeft.model.base import BaseModel
from autopeft.model.checkpoint_source import (
    adapter_error,
    config_of,
    counting_class,
    loading_class,
    name_first_token,
    name_labels,
    pretrained_arguments,
    reading,
    reads_images,
    require_class,
    require_reachable,
    resolve,
)
from autopeft.model.checks import pad_with, prepare_base, require_head, require_targets, usable_tokenizer
from autopeft.model.devices import SPREAD, Precision, device_names, find_device, has_used_gpus, make_current
from autopeft.model.linear_layers import n_params
from autopeft.model.quantization import (
    conv1d_to_linear,
    dequantizing,
    output_layer_names,
    plain_experts_note,
    quantization_config,
    quantized_owners,
    require_bitsandbytes,
    require_plain_weights,
    require_quantizer,
    require_reader,
    require_trainable,
    require_working_kernels,
    stop_mutation,
    stored_weights,
    widen_norms,
)
from autopeft.model.targets import head_names, unexplained
from autopeft.types import ModelSpec, listed

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

    Args:
        spec: A hub id or local directory, and whether to quantize; no id means the demo model.
        auto_class: Name of the transformers class, such as `AutoModelForSequenceClassification`.
        label_names: The labels of the task, in order; empty for a language model.
        needs_tokenizer: Whether a missing tokenizer is an error.
        needs_padding: Whether a tokenizer without a padding token is given one, and the model's config too.
        device: Where to put the model, as torch names devices; None takes a GPU if there is one, and
            `balanced` spreads its layers over all GPUs.
        precision: The format of the weights, and of products of 4-bit maps; the task head is float32. None
            is float32.

    Raises:
        ModelError: The model is missing, unreadable or not the published demo, or cannot be quantized here.
        TargetError: The model has no linear layer or norm to adapt.
    """
    precision = precision or Precision()
    source, name = resolve(spec)
    require_reachable(source, spec)
    place = find_device(device)
    make_current(place)
    is_spread = device_names(device)[0] == SPREAD
    device_map = SPREAD if is_spread else {"": place}
    if spec.quantize == "none":
        settings = {} if source.endswith(".gguf") else dequantizing(config_of(spec))
        settings["dtype"] = precision.torch_dtype
        if is_spread or (place.type == "cuda" and not (label_names or source.endswith(".gguf"))):
            # Weights stream to the GPU, without a copy in host memory. A fresh head is drawn on the CPU,
            # whose numbers are the same everywhere.
            settings["device_map"] = device_map
        module, checkpoint = _read(source, spec, auto_class, label_names, **settings)
        require_trainable(module, name)
        module = module if is_spread else module.to(place)
    else:
        module, checkpoint = _read_quantized(
            source, spec, auto_class, label_names, place=place, dtype=precision.dtype, device_map=device_map
        )
    places = getattr(module, "hf_device_map", {"": next(module.parameters()).device.type})
    if is_spread and not {"cpu", "disk"}.isdisjoint(places.values()):
        raise ModelError(
            f"{name} does not fit into the {torch.cuda.device_count()} GPUs of this machine together; pass "
            "--quantize 4bit, take a smaller model, or train in shards by autopeft tune."
        )
    stop_mutation(module, scales_gradients=precision.dtype == "float16")
    if spec.quantize != "none":
        with precision.autocast(place):
            require_working_kernels(module.requires_grad_(False), name)
        if text := plain_experts_note(
            module, spec.quantize, n_weights=n_params(module), dtype=precision.dtype
        ):
            log.warning(text)
    try:
        tokenizer = load_processor(spec, needs_images=reads_images(auto_class), needs_padding=needs_padding)
    except ModelError as error:
        if needs_tokenizer:
            raise
        log.info("Continuing without a tokenizer: %s", error)
        tokenizer = None
    with reading(source):
        if needs_padding and getattr(tokenizer, "pad_token_id", None) is not None:
            pad_with(module.config, tokenizer.pad_token_id)
        name_first_token(module.config, getattr(module, "generation_config", None))
        if label_names:
            name_labels(module.config, label_names)
        _require_shapes(module, name, checkpoint["mismatched_keys"])
        if absent := unexplained(module, _lacking(checkpoint), head=head_names(module)):
            raise ModelError(
                f"The weights of {name} lack {listed(absent, 1)}, which its config.json describes; put both "
                "of one model together, or save the model as transformers loads it and pass that folder."
            )
        base = BaseModel(module, tokenizer, name=name, untrained=_lacking(checkpoint), precision=precision)
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
    that the config names. With `here_only` only a directory or the hub's cache is read. `n_layers` builds the
    first layers alone.

    Raises:
        ModelError: The config cannot be read, or transformers has no such model of it.
        TargetError: `require_targets` refuses the model.
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
        base = BaseModel(module, None, name=name, untrained=frozenset())
    require_targets(base)
    return base


def require_packages(spec: ModelSpec) -> None:
    """Raise ModelError for a missing package, an unreadable config, or `--quantize` of a quantized model."""
    if spec.quantize != "none":
        require_bitsandbytes(spec.quantize)
    if spec.id is not None and spec.id.endswith(".gguf"):
        pretrained_arguments(spec.id, spec)
        return
    config, (source, name) = config_of(spec), resolve(spec)
    if spec.quantize != "none":
        require_plain_weights(config, name)
    with reading(source):
        require_reader(config)


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """Silence progress bars and load reports of transformers inside a context; errors are still printed."""
    verbosity, had_bars = transformers.logging.get_verbosity(), transformers.logging.is_progress_bar_enabled()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers.logging.set_verbosity(verbosity)
        if had_bars:
            transformers.logging.enable_progress_bar()


def _read(
    source: str, spec: ModelSpec, auto_class: str, label_names: Sequence[str], **settings: Any
) -> tuple[Any, Mapping[str, Any]]:
    """Read a model, if need be as one that reads images too; returns it and the report on its checkpoint."""
    labels = dict(enumerate(label_names))
    label_maps = {"id2label": labels, "label2id": {label: i for i, label in labels.items()}} if labels else {}
    gpus = range(torch.cuda.device_count()) if has_used_gpus() else ()
    try:
        with reading(source), torch.random.fork_rng(devices=gpus):
            torch.manual_seed(0)  # what the checkpoint lacks is drawn alike in every process
            module, checkpoint = getattr(transformers, auto_class).from_pretrained(
                **pretrained_arguments(source, spec),
                **label_maps,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                **settings,
            )
    except ModelError:
        config = config_of(spec)
        if (class_name := loading_class(config, auto_class)) != auto_class:
            return _read(source, spec, class_name, label_names, **settings)
        require_class(config, auto_class, name=source)
        raise
    if adapters := getattr(module, "peft_config", None):  # of a hub model, whose adapter is loaded with it
        raise adapter_error(source, next(iter(adapters.values())).base_model_name_or_path)
    if labels and module.config.num_labels != len(labels) and "num_labels" not in settings:
        # The config of PVT has a field of this name, which the labels do not change.
        return _read(source, spec, auto_class, label_names, num_labels=len(labels), **settings)
    return module, checkpoint


def _read_quantized(
    source: str,
    spec: ModelSpec,
    auto_class: str,
    label_names: Sequence[str],
    *,
    place: torch.device,
    dtype: str,
    device_map: Any,
) -> tuple[Any, Mapping[str, Any]]:
    """Read a model quantized, except for head, output layer and maps that the checkpoint lacks.

    Reading tells what the checkpoint lacks, so that a model without a pooler, say, is read twice. All is read
    in the format that the model computes in: it takes less memory and is what 4-bit maps unpack to.
    """
    require_quantizer(spec.quantize, place)
    if source.endswith(".gguf"):
        raise ModelError(
            f"{source} is a GGUF file, which transformers reads in plain numbers only; pass the model as "
            "safetensors, or leave --quantize out."
        )
    skeleton = load_skeleton(spec, auto_class=auto_class)
    require_plain_weights(skeleton.module.config, skeleton.name)
    skipped = [*skeleton.head_names, *output_layer_names(skeleton.module)]
    settings: dict[str, Any] = {"dtype": getattr(torch, dtype), "device_map": device_map}
    while True:
        settings["quantization_config"] = quantization_config(spec.quantize, skipped, dtype=dtype)
        module, checkpoint = _read(source, spec, auto_class, label_names, **settings)
        lacking = quantized_owners(module, _lacking(checkpoint))
        if not lacking:
            break
        skipped += lacking
    widen_norms(module)
    if place.type == "cpu":
        # A view of the checkpoint would keep its whole file mapped, several times as large.
        for parameter in module.parameters():
            if parameter.is_floating_point():
                parameter.data = parameter.data.clone()
    return module, checkpoint


def _lacking(checkpoint: Mapping[str, Any]) -> frozenset[str]:
    return frozenset(checkpoint["missing_keys"]) | frozenset(key[0] for key in checkpoint["mismatched_keys"])


def load_processor(spec: ModelSpec, *, needs_images: bool = False, needs_padding: bool = True) -> Any:
    """Load a model's image processor or tokenizer, with a padding token if needed; ModelError if it fails."""
    source, name = resolve(spec)
    auto = transformers.AutoImageProcessor if needs_images else transformers.AutoTokenizer
    with reading(source):
        processor = auto.from_pretrained(**pretrained_arguments(source, spec))
    return usable_tokenizer(processor, name) if needs_padding and not needs_images else processor


def _require_shapes(module: Any, name: str, mismatched: Sequence[tuple[str, Any, Any]]) -> None:
    """Warn of a replaced head; refuse other tensors of `mismatched`: (name, stored shape, built shape)."""
    head = tuple(f"{child}." for child in head_names(module))
    for key, stored, built in sorted(mismatched):
        if not key.startswith(head):
            require_head(module, name, head=head)
            raise ModelError(
                f"The weights of {name} have {key} with the shape {tuple(stored)}, its config.json describes "
                f"{tuple(built)}; put the config.json and the weights of one model together."
            )
    outputs = [(stored[0], built[0]) for key, stored, built in sorted(mismatched) if key.endswith("weight")]
    if outputs:
        text = "%s has a head of %d outputs and %d are needed; its head is not used."
        log.warning(text, name, *outputs[-1])

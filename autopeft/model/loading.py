"""Load a base model from a hub, a directory or the demo package; or its skeleton, without weights."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import transformers

from autopeft.errors import ModelError, SiteError
from autopeft.model.base import BaseModel
from autopeft.model.finding import LOAD_ERRORS, load_error, resolve, where_to_look
from autopeft.model.quantising import (
    as_quantised,
    output_name,
    quantised_among,
    require_quantiser,
    require_sound,
    rows_apart,
    settings,
    steady,
)
from autopeft.model.sites import TASK_MODELS, head_names
from autopeft.records import ModelSpec

_IMAGES, _CAUSAL = "AutoModelForImageClassification", "AutoModelForCausalLM"
_GENERATIVE = ("AutoModelForCausalLM", "AutoModelForSeq2SeqLM")

log = logging.getLogger(__name__)


def load(
    spec: ModelSpec,
    *,
    auto_class: str,
    label_names: Sequence[str],
    needs_tokenizer: bool = True,
    device: str | None = None,
    dtype: str = "float32",
) -> BaseModel:
    """A base model with a task head of the right size, and its tokenizer.

    Args:
        spec: A hub id or local directory, and whether to quantise; no id means the demo model.
        auto_class: Name of the transformers class, such as `AutoModelForSequenceClassification`.
        label_names: The labels of the task, in order; none for a language model.
        needs_tokenizer: Whether the model is of no use without one; else it may lack one.
        device: Where to put it, in torch's words; None is a GPU where there is one.
        dtype: float32 or bfloat16: what maps of 4 bits are multiplied in.

    Raises:
        ModelError: Nothing there, unreadable, or the demo file is not the published one; or it cannot be
            quantised here.
        SiteError: The model has no linear map or norm to adapt.
    """
    source, name = resolve(spec)
    place = _device(device)
    if spec.quantize == "none":
        module, loading = _read(source, spec, auto_class, label_names)
        module = module.to(place)
    else:
        module, loading = _read_quantised(source, spec, auto_class, label_names, place=place, dtype=dtype)
    steady(module)
    if spec.quantize != "none":
        require_sound(module.requires_grad_(False), name)
    get = _processor if needs_tokenizer else _processor_if_any
    tokenizer = get(spec, source, name, reads_images=auto_class == _IMAGES)
    if getattr(tokenizer, "pad_token_id", None) is not None:
        module.config.pad_token_id = tokenizer.pad_token_id
    if auto_class == _CAUSAL:
        require_causal(module, name)
    _require_shapes(
        module, name, {key: (tuple(held), tuple(built)) for key, held, built in loading["mismatched_keys"]}
    )
    base = BaseModel(module, tokenizer, name=name, untrained=_lacked(loading))
    require_sites(base)
    _report_untrained(base)
    return base


def _read(
    source: str, spec: ModelSpec, auto_class: str, label_names: Sequence[str], **settings: Any
) -> tuple[Any, Mapping[str, Any]]:
    """The model, and what `transformers` says of its checkpoint."""
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # what the checkpoint lacks is drawn alike in every process
            module, loading = getattr(transformers, auto_class).from_pretrained(
                **where_to_look(source, spec),
                **_labels(label_names),
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                dtype=torch.float32,
                **settings,
            )
    except LOAD_ERRORS as error:
        raise load_error(source, error) from error
    return module, loading


def _read_quantised(
    source: str,
    spec: ModelSpec,
    auto_class: str,
    label_names: Sequence[str],
    *,
    place: torch.device,
    dtype: str,
) -> tuple[Any, Mapping[str, Any]]:
    """The same with its maps in few bits, but for the head, the output layer and what the checkpoint lacks.

    What it lacks is known once it is read: a model without a pooler, say, is read again.
    """
    require_quantiser(spec.quantize, place)
    if source.endswith(".gguf"):
        raise ModelError(
            f"{source} is a GGUF file, which transformers reads in plain numbers only; pass the model as "
            "safetensors, or leave --quantize out."
        )
    skeleton = load_skeleton(spec, auto_class=auto_class)
    own = getattr(skeleton.module.config, "quantization_config", None)
    if own is not None:
        method = own.get("quant_method") if isinstance(own, dict) else getattr(own, "quant_method", None)
        method = getattr(method, "value", method)
        raise ModelError(f"{skeleton.name} is quantised already ({method}); leave --quantize out.")
    kept = [*skeleton.head_names, *output_name(skeleton.module)]
    while True:
        config = settings(spec.quantize, kept, dtype=dtype)
        module, loading = _read(
            source, spec, auto_class, label_names, quantization_config=config, device_map={"": place}
        )
        lacking = quantised_among(module, _lacked(loading))
        if not lacking:
            return module, loading
        kept += lacking


def _lacked(loading: Mapping[str, Any]) -> frozenset[str]:
    """Names of the parameters that a checkpoint lacks, or has in another shape."""
    return frozenset(loading["missing_keys"]) | frozenset(key[0] for key in loading["mismatched_keys"])


def _device(asked: str | None) -> torch.device:
    """A device that is there.

    Raises:
        ModelError: It is not.
    """
    if asked is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(asked)
        torch.zeros(1, device=device).cpu()  # a device without numbers ("meta") cannot give any back
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise ModelError(
            f"The device {asked!r} cannot be used here ({reason}); use cpu or another --device."
        ) from error
    return device


def _processor(spec: ModelSpec, source: str, name: str, *, reads_images: bool) -> Any:
    """The tokenizer of a model, with a padding token, or its image processor."""
    kind = transformers.AutoImageProcessor if reads_images else transformers.AutoTokenizer
    try:
        found = kind.from_pretrained(**where_to_look(source, spec))
    except LOAD_ERRORS as error:
        raise load_error(source, error) from error
    if reads_images:
        return found
    require_words(found, name)
    if found.pad_token_id is None:
        found.pad_token = found.eos_token
        log.info("%s has no padding token; its end-of-text token pads.", name)
    return found


def _processor_if_any(spec: ModelSpec, source: str, name: str, *, reads_images: bool) -> Any:
    try:
        return _processor(spec, source, name, reads_images=reads_images)
    except ModelError as error:
        log.info("Going on without a tokenizer: %s", error)
        return None


def _labels(names: Sequence[str]) -> dict[str, Any]:
    """The labels for a model's config; nothing for a language model, which has no head for them."""
    labels = dict(enumerate(names))
    return (
        {"id2label": labels, "label2id": {label: index for index, label in labels.items()}} if labels else {}
    )


def require_causal(module: Any, name: str) -> None:
    """Refuse a model that sees the token which it is to predict: its loss would mean nothing."""
    device = next(module.parameters()).device
    first = torch.tensor([[1, 2, 3, 4]], device=device)
    second = torch.tensor([[1, 2, 3, 5]], device=device)
    with torch.no_grad(), rows_apart(module):
        before, after = (module.eval()(input_ids=ids).logits[:, :3] for ids in (first, second))
    if not torch.allclose(before, after, atol=1e-4, rtol=1e-3):
        raise ModelError(
            f"{name} is no causal language model: what it predicts depends on the tokens that come after; "
            "use a decoder such as GPT-2, Llama or Qwen."
        )


def _require_shapes(module: Any, name: str, other: Mapping[str, tuple[Any, Any]]) -> None:
    """Say that a head of another size is replaced; refuse weights of other shapes anywhere else.

    Args:
        module: The model, in which such weights are random.
        name: What to call it.
        other: Parameter name -> its shape in the checkpoint and in the model, where they differ.
    """
    head = tuple(f"{child}." for child in head_names(module))
    for key, (held, built) in sorted(other.items()):
        if not key.startswith(head):
            raise ModelError(
                f"The weights of {name} have {key} with the shape {held}, its config.json describes {built}; "
                "put the config.json and the weights of one model together."
            )
    outputs = [shapes for key, shapes in sorted(other.items()) if key.endswith("weight")]
    if outputs:
        (had, *_), (needs, *_) = outputs[-1]
        log.warning(
            "%s has a head of %d outputs and %d are needed; a fresh head takes its place.", name, had, needs
        )


def _report_untrained(base: BaseModel) -> None:
    """Say which weights outside the head the checkpoint lacks, and what becomes of them."""
    beside = [name for name in base.head_names if "." in name]
    if beside:
        log.info(
            "%s has no weights for %s; trained with the head, for every plan.", base.name, ", ".join(beside)
        )
    lost = sorted(key for key in base.untrained if not key.startswith(base.head_names))
    if lost:
        log.warning("%s has no weights for %s; left at random.", base.name, ", ".join(lost[:3]))


def load_skeleton(spec: ModelSpec, *, auto_class: str | None, here_only: bool = False) -> BaseModel:
    """The same without weights, from `config.json` alone, for counting.

    Args:
        spec: A hub id or local directory; no id means the demo model.
        auto_class: Name of the transformers class; None takes the architecture that the config names.
        here_only: Whether to leave the network alone: a directory, or what the hub's cache holds.

    Raises:
        ModelError: No readable config there, or an architecture that this transformers lacks.
    """
    source, name = resolve(spec)
    try:
        config = transformers.AutoConfig.from_pretrained(
            **where_to_look(source, spec), local_files_only=here_only
        )
        builder = _builder(config, auto_class, name=name)
        with torch.device("meta"):
            is_auto = hasattr(builder, "from_config")
            module = builder.from_config(config) if is_auto else builder(config)
    except LOAD_ERRORS as error:
        raise load_error(source, error) from error
    if spec.quantize != "none":
        as_quantised(module)
    base = BaseModel(module, None, name=name, untrained=frozenset())
    require_sites(base)
    return base


def _builder(config: Any, auto_class: str | None, *, name: str) -> Any:
    """The class of a skeleton; of a language model the whole one that its config names.

    `AutoModelForCausalLM` knows Whisper and BART by their decoders alone, and Qwen2-VL not at all.

    Raises:
        ModelError: There is no such task model of this type.
    """
    named = str(next(iter(config.architectures or ()), ""))
    if auto_class is None:
        return getattr(transformers, named or "AutoModel", transformers.AutoModel)
    if (
        auto_class in _GENERATIVE
        and named.endswith("ForConditionalGeneration")
        and hasattr(transformers, named)
    ):
        return getattr(transformers, named)
    builder: Any = getattr(transformers, auto_class)
    known = getattr(builder, "_model_mapping", None)
    if known is not None and type(config) not in known:
        raise ModelError(
            f"{name} is of the type {config.model_type!r}, of which transformers has no {auto_class}; "
            "use a base model of the kind that the adapter or plan was made for."
        )
    return builder


def require_words(tokenizer: Any, name: str) -> None:
    """Refuse a tokenizer without words or padding.

    Where its files are missing, transformers makes a tokenizer to which every word is unknown.
    """
    if len(tokenizer) <= len(set(tokenizer.all_special_ids)):
        raise ModelError(
            f"The tokenizer of {name} knows no words, only {len(tokenizer)} special tokens; "
            "put its files (tokenizer.json or the like) beside the weights."
        )
    if tokenizer.pad_token_id is None and tokenizer.eos_token_id is None:
        raise ModelError(
            f"The tokenizer of {name} has neither a padding nor an end-of-text token; "
            "name one as pad_token in its tokenizer_config.json."
        )


def require_sites(base: BaseModel) -> None:
    """Refuse a model with nothing to adapt."""
    if not base.sites and base.untrained:
        raise ModelError(
            f"The weights of {base.name} fit none of the modules that its config.json describes; "
            "put the config.json and the weights of one model there."
        )
    if not base.sites:
        raise SiteError(
            f"{base.name} (model type {base.model_type!r}) has no linear map or norm to adapt; "
            "use a transformer made of nn.Linear or Conv1D layers."
        )
    _require_head(base)


def _require_head(base: BaseModel) -> None:
    """Refuse a task model whose head is not found, or whose head `peft` would take for other modules too.

    It tells what to keep by the end of its name.
    """
    kind = type(base.module).__name__
    if kind.endswith(TASK_MODELS) and not base.head_names:
        raise SiteError(
            f"{base.name} ({kind}) has its task head under a name that autopeft does not know, so that "
            "nothing would learn the labels; use another model."
        )
    inside = tuple(f"{head}." for head in base.head_names)
    names = [name for name, _ in base.module.named_modules()]
    outside = [name for name in names if not f"{name}.".startswith(inside)]
    for head in base.head_names:
        twins = [name for name in outside if name.endswith(head)]
        if twins:
            raise SiteError(
                f"{base.name} calls its task head {head}, and peft tells it by that ending from {twins[0]} "
                f"({len(twins)} such modules) no more; use another model."
            )

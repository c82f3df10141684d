"""Which class of transformers a base model is loaded with, by its config and the auto class of the task."""

from __future__ import annotations

from typing import Any

import transformers

from autopeft.errors import ModelError

_CAUSAL, _SEQ2SEQ = "AutoModelForCausalLM", "AutoModelForSeq2SeqLM"
_WITH_IMAGES, _SPEECH = "AutoModelForImageTextToText", "AutoModelForSpeechSeq2Seq"
_WHOLE = "ForConditionalGeneration"  # the end of the names of pairs, and of models of texts and images


def loading_class(config: Any, auto_class: str) -> str:
    """The class that loads a model for a task: `auto_class`, or that of models which read images as well.

    `AutoModelForCausalLM` lacks LLaVA and Qwen2-VL; of Qwen3.5 and Llama 4 it loads the text model alone.
    """
    is_lacking = auto_class == _CAUSAL and not _maps(_CAUSAL, config) and not _is_pair(config)
    return _WITH_IMAGES if is_lacking and _maps(_WITH_IMAGES, config) else auto_class


def loading_class_of_type(model_type: str, auto_class: str) -> str:
    """As `loading_class`, of a loaded model whose `model_type` alone is known.

    Example:
        >>> loading_class_of_type("llava", "AutoModelForCausalLM")
        'AutoModelForImageTextToText'
        >>> loading_class_of_type("qwen3_5_text", "AutoModelForCausalLM")
        'AutoModelForCausalLM'
    """
    known = transformers.CONFIG_MAPPING
    return loading_class(known[model_type], auto_class) if model_type in known else auto_class


def counting_class(config: Any, auto_class: str | None) -> str:
    """The class that builds a model for counting; it is the one that loads it, but for pairs.

    `auto_class` None takes what a search of texts would load, else the architecture that the config names.
    Encoders with a decoder are built whole: `AutoModelForCausalLM` knows BART and Whisper by their decoders
    alone, `AutoModelForSeq2SeqLM` does not know Whisper at all.
    """
    architecture = str(next(iter(config.architectures or ()), ""))
    is_whole = architecture.endswith(_WHOLE) and hasattr(transformers, architecture)
    if auto_class is None and is_whole and not _is_pair(config) and _maps(_CAUSAL, config):
        return _CAUSAL
    if auto_class is None:
        return architecture if architecture and hasattr(transformers, architecture) else "AutoModel"
    wanted = loading_class(config, auto_class)
    if is_whole and wanted in (_CAUSAL, _SEQ2SEQ) and (_is_pair(config) or not _maps(wanted, config)):
        return architecture
    return wanted


def is_built_by(module: Any, auto_class: str) -> bool:
    """Whether a model is of the class that is built for counting with an auto class."""
    config: Any = module.config
    wanted = counting_class(config, auto_class)
    kind = getattr(transformers, wanted)
    mapping = getattr(kind, "_model_mapping", {type(config): kind})
    return type(module) is mapping.get(type(config), None)


def own_class(config: Any, auto_class: str) -> str | None:
    """The class of a checkpoint with images, where a search of texts loads the text model alone; else None.

    Adapters of the text model do not fit it, since its modules have longer names.
    """
    architecture = str(next(iter(config.architectures or ()), ""))
    if auto_class != _CAUSAL or _is_pair(config) or not architecture.endswith(_WHOLE):
        return None
    loaded = transformers.MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    return None if loaded is None or loaded.__name__ == architecture else architecture


def reads_images(class_name: str) -> bool:
    """Whether an auto class or a class of transformers classifies images, so that a processor belongs to it.

    Example:
        >>> reads_images("AutoModelForImageClassification"), reads_images("ViTForImageClassification")
        (True, True)
    """
    return "ForImageClassification" in class_name


def require_class(config: Any, auto_class: str, *, name: str) -> None:
    """Raise ModelError for a config of which transformers has no model of an auto class."""
    if not _maps(auto_class, config):
        require_no_speech(config, name=name)
        raise ModelError(
            f"{name} is of the type {config.model_type!r}, of which transformers has no {auto_class}; choose "
            "a base model for this task, or the --task that the model is for."
        )


def require_no_speech(config: Any, *, name: str) -> None:
    """Raise ModelError for a model that reads speech."""
    if _maps(_SPEECH, config):
        raise ModelError(
            f"{name} is of the type {config.model_type!r}, and speech models are not supported; choose a "
            "base model that reads texts or images."
        )


def _maps(auto_class: str, config: Any) -> bool:
    """Whether an auto class has a model of a config or of a class of configs; all other classes have."""
    mapping = getattr(getattr(transformers, auto_class), "_model_mapping", None)
    return mapping is None or (config if isinstance(config, type) else type(config)) in mapping


def _is_pair(config: Any) -> bool:
    return bool(getattr(config, "is_encoder_decoder", False))

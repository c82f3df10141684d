"""What a finished adapter notes of its base model: config, weights and tokenizer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from torch import nn

from autopeft import model
from autopeft.errors import ModelError
from autopeft.model.attaching import modules_kept_whole
from autopeft.model.weight_comparison import weight_digests
from autopeft.run.prepare import Prepared
from autopeft.store import BASE, TRAINING, read_object
from autopeft.tasks._shared.generating import NOT_OF_THE_MODEL
from autopeft.types import digest_of

DATA = "data_fingerprint"
# Config keys that change no output of the base model: places, versions, formats, labels of the trained head.
_WITHOUT_EFFECT = frozenset(
    "_name_or_path architectures transformers_version dtype torch_dtype quantization_config "
    "id2label label2id label_names num_labels num_classes problem_type use_cache return_dict "
    "output_attentions output_hidden_states pad_token_id pad_token".split()
)
# Steps of an image processor that its file need not name; None is noted, so that one which comes is seen.
_OFTEN_UNSET = ("do_center_crop", "crop_size", "do_flip_channel_order", "do_pad")
# Accents, ligatures, emoji, spaces, prices and links: tokenizers differ in how they split them.
_TEXT = "Straße, naïve café: DON'T pay $3.14 (or 2,718 €)…\n\n\tfoo_bar ½ ﬁ 你好 😀  https://a.b/c?d=e  "
_N_WORDS = 1 << 12  # of the vocabulary, at most, that the tokenizer splits in addition to _TEXT


def base_facts(module: nn.Module, processor: Any, *, weights: Mapping[str, str]) -> dict[str, Any]:
    """Collect what decides a base model's outputs, by name: config values, digests of weights and tokenizer.

    For a model that writes texts: also its generation config, and how the tokenizer joins tokens. `processor`
    is a tokenizer or image processor. `weights` are what `weight_digests` gives for the model without its
    head.
    """
    config = _with_effect(json.loads(cast(Any, module).config.to_json_string(use_diff=False)))
    facts = {f"config.{name}": value for name, value in config.items()}
    facts |= {name: digest[:16] for name, digest in weights.items()}
    writes = getattr(module, "generation_config", None)
    if writes is not None:
        values = _with_effect(json.loads(writes.to_json_string(use_diff=False)))
        facts |= {f"generation_config.{name}": values[name] for name in values.keys() - NOT_OF_THE_MODEL}
    if hasattr(processor, "get_vocab"):
        vocabulary = sorted(processor.get_vocab().items())
        words = " ".join(word for word, _ in vocabulary[:: len(vocabulary) // _N_WORDS + 1])
        texts = (_TEXT, words, words.upper())
        splits = [processor(text, verbose=False)["input_ids"] for text in texts]  # no warning of the length
        facts["vocabulary of the tokenizer"] = digest_of(vocabulary)
        special = {name: str(word) for name, word in processor.special_tokens_map.items()}
        facts["token ids of sample texts"] = digest_of(splits)
        if writes is not None:
            facts["texts of sample token ids"] = digest_of(processor.batch_decode(splits))
        facts |= {f"tokenizer.{name}": special[name] for name in sorted(special.keys() - _WITHOUT_EFFECT)}
        for name in ("model_input_names", "truncation_side"):
            facts[f"tokenizer.{name}"] = getattr(processor, name, None)
        facts["chat template"] = digest_of(getattr(processor, "chat_template", None))
    elif hasattr(processor, "to_json_string"):
        fields = dict.fromkeys(_OFTEN_UNSET) | _with_effect(json.loads(processor.to_json_string()))
        facts |= {f"image processor.{name}": value for name, value in fields.items()}
    return facts


def _with_effect(config: Any) -> Any:
    if not isinstance(config, dict):
        return config
    return {name: _with_effect(value) for name, value in config.items() if name not in _WITHOUT_EFFECT}


def facts_of(prepared: Prepared, weights: Mapping[str, str]) -> dict[str, Any]:
    """Collect `base_facts` of a run's base model, and the fingerprint of its rows."""
    facts = base_facts(prepared.base.module, prepared.base.tokenizer, weights=weights)
    return {BASE: facts, DATA: prepared.data.fingerprint}


def base_difference(folder: Path, module: nn.Module, processor: Any = None) -> str:
    """Say how a base model differs from the one that the weights in a folder were trained on.

    A fact that only one of the two has is not compared: another version of transformers may have added it.
    Returns "" if nothing differs, or if the folder is of an earlier version, which noted no facts.
    """
    noted = read_object(folder / TRAINING).get(BASE)
    if not isinstance(noted, dict):
        return ""
    trained_whole = (*model.head_names(module), *modules_kept_whole(folder))
    current = base_facts(module, processor, weights=weight_digests(module, exclude=trained_whole))
    names = [name for name in sorted(noted.keys() & current) if noted[name] != current[name]]
    return "; ".join(
        f"other {name} (SHA-256 {noted[name]}, now {current[name]})"
        if name.startswith("weights")
        else f"{name} {noted[name]}, now {current[name]}"
        for name in names
    )


def require_same_base(folder: Path, module: nn.Module, processor: Any = None) -> None:
    """Raise a ModelError if the base model is not that of the weights in a folder."""
    if differing := base_difference(folder, module, processor):
        raise ModelError(
            f"{folder} was trained on another base model ({differing}); pass that one, or put it back in its "
            "place."
        )

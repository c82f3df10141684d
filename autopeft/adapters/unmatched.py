"""Names in an adapter config that stand for no module of the base model."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from peft.utils.constants import DUMMY_TARGET_MODULES

from autopeft.adapters.reading import ConfigFile
from autopeft.errors import SiteError
from autopeft.model import BaseModel

_ALL = ("all-linear", DUMMY_TARGET_MODULES)  # words of peft's that stand for modules
_MAX_CHARACTERS = 80  # of a pattern that names every site one by one; chosen by hand
_HEADS = ("classifier", "score")  # peft writes both into every config of a classifier


def require_match(file: ConfigFile, base: BaseModel, *, path: Path) -> None:
    """Refuse a config whose targets are no modules of a base model without adapters.

    Raises:
        SiteError: With the nearest names there are.
    """
    targets = file.content.get("target_modules")
    is_regex = isinstance(targets, str)
    entries = [str(entry) for entry in ([targets] if is_regex else targets or ())]
    if not entries or any(entry in _ALL for entry in entries) or file.content.get("target_parameters"):
        return
    matches = _matches_pattern if is_regex else _matches_ending
    if any(matches(entry, name) for entry in entries for name, _ in base.module.named_modules() if name):
        return
    known = list(dict.fromkeys(_last(site.name) for site in base.sites if site.kind != "model"))
    hint = _nearest(entries, known) or f"; there are {', '.join(known[:8])}"
    raise SiteError(
        f"{path} and {base.name} do not fit: it adapts {_short(', '.join(entries))}, which the model lacks"
        f"{hint}; use the base model that it was made for."
    )


def unmatched(file: ConfigFile, targeted: Collection[str], *, modules: Sequence[str]) -> list[str]:
    """A note for every name in a config that stands for no module; `peft` passes over them in silence.

    Args:
        file: The config.
        targeted: The modules, and the parameters inside modules, that `peft` adapts for it.
        modules: Every module of the model.
    """
    return [
        *_unmatched_names(file.content, targeted, modules),
        *_unmatched_patterns(file.content, targeted),
        *_unmatched_layers(file.content, targeted),
    ]


def _unmatched_names(content: dict[str, Any], targeted: Collection[str], modules: Sequence[str]) -> list[str]:
    places = {
        **dict.fromkeys(("target_modules", "target_parameters", "feedforward_modules"), targeted),
        **dict.fromkeys(("exclude_modules", "modules_to_save"), modules),
    }
    is_classifier = content.get("task_type") in ("SEQ_CLS", "TOKEN_CLS")
    notes = []
    for field, choices in places.items():
        names = content.get(field)
        known = (*_ALL, *(_HEADS if is_classifier and field == "modules_to_save" else ()))
        entries = [str(name) for name in names if name not in known] if isinstance(names, list) else []
        lost = _lost(entries, choices, _matches_ending)
        if lost:
            near = _nearest(lost, list(dict.fromkeys(map(_last, (*choices, *modules)))))
            notes.append(f"{field} names what is not there: {', '.join(lost)}{near}.")
    return notes


def _unmatched_patterns(content: dict[str, Any], targeted: Collection[str]) -> list[str]:
    notes = []
    for field, pattern in content.items():
        if field.endswith("_pattern") and isinstance(pattern, dict):
            if any(isinstance(kept, list) for kept in pattern.values()):
                continue  # what AdaLoRA has left of each rank, under the names of tensors
            lost = _lost(pattern, targeted, _matches_key)
            if lost:
                notes.append(f"{field} has keys that fit no target: {', '.join(lost)}.")
    return notes


def _unmatched_layers(content: dict[str, Any], targeted: Collection[str]) -> list[str]:
    layers = content.get("layers_to_transform")
    numbers = layers if isinstance(layers, list) else [] if layers is None else [layers]
    lost = _lost(map(str, numbers), targeted, lambda number, name: f".{number}." in f".{name}.")
    return [f"layers_to_transform names what is not there: {', '.join(lost)}."] if lost else []


def _lost(entries: Any, names: Collection[str], matches: Callable[[str, str], bool]) -> list[str]:
    return [entry for entry in entries if not any(matches(entry, name) for name in names)]


def _matches_ending(entry: str, name: str) -> bool:
    """As `peft` compares the entries of a list."""
    return name == entry or name.endswith(f".{entry}")


def _matches_pattern(entry: str, name: str) -> bool:
    """As `peft` compares a string: a regular expression on the whole name."""
    try:
        return re.fullmatch(entry, name) is not None or _matches_ending(entry, name)
    except re.error:
        return True  # peft says what is wrong with it


def _matches_key(key: str, name: str) -> bool:
    """As `peft` looks up `rank_pattern` and its like."""
    try:
        return re.match(rf"(.*\.)?({key})$", name) is not None
    except re.error:
        return False


def _nearest(entries: Sequence[str], known: Sequence[str]) -> str:
    """The known names nearest to the entries, as a clause; empty where none is near."""
    words = [word for entry in entries for word in re.findall(r"[A-Za-z]\w+", entry)]
    near = [name for word in words for name in difflib.get_close_matches(word, known, n=2, cutoff=0.5)]
    return f"; nearest: {', '.join(list(dict.fromkeys(near))[:4])}" if near else ""


def _short(text: str) -> str:
    return text if len(text) <= _MAX_CHARACTERS else f"{text[: _MAX_CHARACTERS - 2]} …"


def _last(name: str) -> str:
    return name.rpartition(".")[2]

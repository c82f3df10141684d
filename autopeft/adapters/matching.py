"""Which modules of a base model the names and patterns in an adapter config stand for."""

from __future__ import annotations

import copy
import difflib
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft.utils.constants import DUMMY_TARGET_MODULES, SEQ_CLS_HEAD_NAMES
from torch import nn

from autopeft.adapters.configs import ConfigFile
from autopeft.errors import TargetError
from autopeft.model import BaseModel, rewrite_targets
from autopeft.types import shortened

_ALL = ("all-linear", DUMMY_TARGET_MODULES)  # words of peft's that stand for modules
_MOST_SHOWN = 80  # characters of a list, which may name every expert; chosen by hand
_MOST_SOUGHT = 8  # names for which near ones are sought; chosen by hand


@dataclass(frozen=True, kw_only=True)
class TargetMatch:
    """One entry of a field, such as `q_proj` of `target_modules`, and the modules that it matches."""

    field: str
    entry: str
    modules: tuple[str, ...]


def target_matches(content: Mapping[str, Any], module: nn.Module) -> tuple[TargetMatch, ...]:
    """Match each target in the content of a config's file with modules, or with parameters.

    `all-linear` and the placeholder of a config that adapts nothing stand for no names and are left out.
    """
    modules = [name for name, _ in module.named_modules() if name]
    places = {"target_modules": modules, "target_parameters": [name for name, _ in module.named_parameters()]}
    entry_matches = []
    for field, names in places.items():
        targets = content.get(field)
        if targets in _ALL:
            continue
        is_pattern = isinstance(targets, str)
        matches = matches_pattern if is_pattern else matches_ending
        for entry in (str(entry) for entry in ([targets] if is_pattern else targets or ())):
            hits = tuple(name for name in names if matches(entry, name))
            entry_matches.append(TargetMatch(field=field, entry=entry, modules=hits))
    return tuple(entry_matches)


def matches_ending(entry: str, name: str) -> bool:
    """Whether an entry of a list stands for a module.

    Example:
        >>> matches_ending("q", "h.0.q"), matches_ending("q", "h.0.eq")
        (True, False)
    """
    return name == entry or name.endswith(f".{entry}")


def matches_pattern(entry: str, name: str) -> bool:
    """Whether a string, an expression on the whole name or an ending, means a module; True if invalid."""
    try:
        return re.fullmatch(entry, name) is not None or matches_ending(entry, name)
    except re.error:
        return True  # peft says what is wrong with it


def matches_key(key: str, name: str) -> bool:
    """Whether a key of `rank_pattern` and its like stands for a module; an invalid one stands for none."""
    try:
        return re.match(rf"(.*\.)?({key})$", name) is not None
    except re.error:
        return False


def in_head(name: str, base: BaseModel) -> bool:
    """Whether a module lies in the task head, which every plan trains whole."""
    return any(f"{name}.".startswith(f"{head}.") for head in base.head_names)


def require_match(file: ConfigFile, base: BaseModel, *, path: Path) -> None:
    """Raise TargetError for a config of which all named targets are missing from a base model."""
    content = _as_loaded(file, base.module)
    targets = content.get("target_modules")
    is_regex = isinstance(targets, str)
    entries = [str(entry) for entry in ([targets] if is_regex else targets or ())]
    if not entries or any(entry in _ALL for entry in entries) or content.get("target_parameters"):
        return
    matches = matches_pattern if is_regex else matches_ending
    if any(matches(entry, name) for entry in entries for name, _ in base.module.named_modules() if name):
        return
    endings = list(dict.fromkeys(_last(target.name) for target in base.targets))
    hint = _nearest(entries, endings) or f"; there are {', '.join(endings[:8])}"
    raise TargetError(
        f"{path} and {base.name} do not fit: it adapts {_listed(entries)}, which the model lacks{hint}; "
        "use the base model that it was made for."
    )


def unmatched(
    file: ConfigFile, targeted: Collection[str], *, modules: Sequence[str], model: nn.Module
) -> list[str]:
    """Note every name in a config that stands for no module; `peft` passes over them in silence.

    `targeted` are the modules, and parameters inside modules, that `peft` adapts for the config. `modules`
    are the names of all modules of `model` before it had adapters.
    """
    content = _as_loaded(file, model)
    places = {
        **dict.fromkeys(("target_modules", "target_parameters", "feedforward_modules"), targeted),
        **dict.fromkeys(("exclude_modules", "modules_to_save"), modules),
    }
    is_classifier = content.get("task_type") in ("SEQ_CLS", "TOKEN_CLS")
    notes = []
    for field, choices in places.items():
        names = content.get(field)
        # peft writes the names of heads into every config of a classifier.
        heads = SEQ_CLS_HEAD_NAMES if is_classifier and field == "modules_to_save" else ()
        entries = names if isinstance(names, list) else []
        entries = [str(entry) for entry in entries if entry not in (*_ALL, *heads)]
        if lost := _absent(entries, choices, matches_ending):
            near = _nearest(lost, list(dict.fromkeys(map(_last, (*choices, *modules)))))
            notes.append(f"{field} names what is not there: {_listed(lost)}{near}.")
    for field, pattern in content.items():
        keys = pattern if field.endswith("_pattern") and isinstance(pattern, dict) else {}
        if any(isinstance(mask, list) for mask in keys.values()):
            continue  # AdaLoRA's masks of kept ranks, under the names of tensors
        if lost := _absent(keys, targeted, matches_key):
            notes.append(f"{field} has keys that fit no target: {_listed(lost)}.")
    layers = content.get("layers_to_transform")
    numbers = layers if isinstance(layers, list) else [] if layers is None else [layers]
    if lost := _absent(map(str, numbers), targeted, lambda number, name: f".{number}." in f".{name}."):
        notes.append(f"layers_to_transform names what is not there: {_listed(lost)}.")
    return notes


def _as_loaded(file: ConfigFile, model: nn.Module) -> dict[str, Any]:
    """Return the content of a config, with its list of targets renamed as `peft` renames them.

    Experts that were maps of their own in older versions of transformers, such as Mixtral's w1, are now held
    by one parameter.
    """
    if not isinstance(file.content.get("target_modules"), list):
        return file.content
    config = copy.deepcopy(file.config)
    try:
        rewrite_targets(config, model)
    except ValueError:  # half of a fused pair, which peft refuses when it attaches
        return file.content
    fields = ("target_modules", "target_parameters")
    names = {field: set(getattr(config, field, None) or ()) for field in fields}
    moved = {f: sorted(held) for f, held in names.items() if held != set(file.content.get(f) or ())}
    return {**file.content, **moved}


def _absent(entries: Iterable[str], names: Collection[str], matches: Callable[[str, str], bool]) -> list[str]:
    """List the entries that match no name."""
    exact = set(names)  # most entries need no comparison with every name
    return [e for e in entries if e not in exact and not any(matches(e, name) for name in names)]


def _listed(names: Sequence[str]) -> str:
    """Join names; if the text gets too long it is cut, and their number follows.

    Example:
        >>> _listed(["q", "k"]), _listed([f"experts.{i}.w1" for i in range(64)])[-31:]
        ('q, k', 'rts.4.w1, experts.5… (64 names)')
    """
    text = ", ".join(names)
    return text if len(text) <= _MOST_SHOWN else f"{shortened(text, _MOST_SHOWN)} ({len(names):,} names)"


def _nearest(entries: Sequence[str], endings: Sequence[str]) -> str:
    """A clause with the endings of names that are nearest to the entries; empty if none is near."""
    words = [word for entry in entries[:_MOST_SOUGHT] for word in re.findall(r"[A-Za-z]\w+", entry)]
    named = [name for name in endings if not name.isdigit()]  # a digit numbers a layer or an expert
    close = (difflib.get_close_matches(word, named, n=2, cutoff=0.5) for word in dict.fromkeys(words))
    near = [name for names in close for name in names]
    return f"; nearest: {', '.join(list(dict.fromkeys(near))[:4])}" if near else ""


def _last(name: str) -> str:
    return name.rpartition(".")[2]

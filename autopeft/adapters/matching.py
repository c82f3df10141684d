"""Which modules of a base model the entries of an adapter config stand for, as `peft` compares names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from autopeft.model import head_only_config


@dataclass(frozen=True, kw_only=True)
class TargetMatch:
    """One entry of a field, such as `q_proj` of `target_modules`, and the modules that it matches."""

    field: str
    entry: str
    modules: tuple[str, ...]


def target_matches(content: Mapping[str, Any], module: nn.Module) -> tuple[TargetMatch, ...]:
    """The modules that each entry of a config matches; `target_parameters` match parameters.

    `content` is the config's file. `all-linear` and the placeholder of a config that adapts nothing stand for
    no names and are left out.
    """
    modules = [name for name, _ in module.named_modules() if name]
    places = {"target_modules": modules, "target_parameters": [name for name, _ in module.named_parameters()]}
    entry_matches = []
    for field, names in places.items():
        targets = content.get(field)
        if targets in ("all-linear", head_only_config().target_modules):
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
    """Whether a string, which is a regular expression on the whole name, stands for a module."""
    try:
        return re.fullmatch(entry, name) is not None or matches_ending(entry, name)
    except re.error:
        return True  # peft says what is wrong with it


def matches_key(key: str, name: str) -> bool:
    """Whether a key of `rank_pattern` and its like stands for a module."""
    try:
        return re.match(rf"(.*\.)?({key})$", name) is not None
    except re.error:
        return False

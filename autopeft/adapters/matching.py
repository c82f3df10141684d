"""Which modules of a base model the names and patterns in an adapter config match."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Collection, Iterable

from peft.utils.constants import DUMMY_TARGET_MODULES, SEQ_CLS_HEAD_NAMES
from torch import nn

from autopeft.adapters.configs import ConfigFile
from autopeft.model import BaseModel, rewrite_targets
from autopeft.types import listed

_ALL = ("all-linear", DUMMY_TARGET_MODULES)  # peft's words for sets of modules
_MAX_NAMES = 5  # that a note lists, of what may be every expert; heuristic


def in_head(name: str, base: BaseModel) -> bool:
    """Whether a module is in the task head, which every plan trains whole."""
    return any(f"{name}.".startswith(f"{head}.") for head in base.head_names)


def unmatched(
    file: ConfigFile, targeted: Collection[str], *, modules: Collection[str], model: nn.Module
) -> list[str]:
    """Note every name in a config that matches no module; `peft` ignores them silently.

    `targeted` are the modules, and parameters inside modules, that `peft` adapts for the config. `modules`
    are the names of all modules of `model` before it had adapters.
    """
    config = copy.deepcopy(file.config)
    rewrite_targets(config, model)  # as peft does: Mixtral's w1, once a linear layer, is in a parameter now
    notes = []
    for field in (
        "target_modules", "target_parameters", "feedforward_modules", "exclude_modules", "modules_to_save"
    ):  # fmt: skip
        entries = getattr(config, field, None)
        if entries is None or isinstance(entries, str):
            continue
        # peft writes the names of heads into every config of a classifier.
        is_classifier = config.task_type in ("SEQ_CLS", "TOKEN_CLS")
        expected = SEQ_CLS_HEAD_NAMES if is_classifier and field == "modules_to_save" else ()
        choices = modules if field in ("exclude_modules", "modules_to_save") else targeted
        if lost := _absent(set(entries) - {*_ALL, *expected}, choices, _matches_ending):
            notes.append(f"{field} names what is not there: {listed(lost, _MAX_NAMES)}.")
    for field, pattern in vars(config).items():
        keys = pattern if field.endswith("_pattern") and isinstance(pattern, dict) else {}
        if any(isinstance(value, list) for value in keys.values()):
            continue  # of AdaLoRA, by the names of tensors
        if lost := _absent(keys, targeted, _matches_key):
            notes.append(f"{field} has keys that match no target: {listed(lost, _MAX_NAMES)}.")
    return notes


def _matches_ending(entry: str, name: str) -> bool:
    return name == entry or name.endswith(f".{entry}")


def _matches_key(key: str, name: str) -> bool:
    return re.match(rf"(.*\.)?({key})$", name) is not None


def _absent(entries: Iterable[str], names: Collection[str], matches: Callable[[str, str], bool]) -> list[str]:
    """List the entries that match no name, ascending."""
    exact = set(names)  # most entries need no comparison with every name
    return sorted(e for e in entries if e not in exact and not any(matches(e, name) for name in names))

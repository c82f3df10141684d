"""Which base model and rows a finished adapter was trained on, as `training.json` next to it notes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from autopeft import model
from autopeft.errors import ModelError
from autopeft.model.attaching import modules_kept_whole
from autopeft.model.weight_comparison import weight_digests
from autopeft.run.prepare import Prepared
from autopeft.store import TRAINING, read_object

_BASE, DATA = "base", "data_fingerprint"


def facts_of(prepared: Prepared) -> dict[str, Any]:
    """Collect the digests of a run's base model and the fingerprint of its rows."""
    return {_BASE: prepared.base.weight_digests, DATA: prepared.data.fingerprint}


def has_other_base(folder: Path, module: nn.Module) -> bool:
    """Whether the weights in a folder were trained on another base model than `module`.

    False if that is unknown: nothing is noted, or only one of the two models was quantized.
    """
    noted = read_object(folder / TRAINING).get(_BASE)
    if not isinstance(noted, dict):
        return False
    trained_whole = (*model.head_names(module), *modules_kept_whole(folder))
    current = weight_digests(module, exclude=trained_whole)
    return any(noted[name] != current[name] for name in noted.keys() & current)


def require_same_base(folder: Path, module: nn.Module) -> None:
    """Raise a ModelError if the base model is not that of the weights in a folder."""
    if has_other_base(folder, module):
        raise ModelError(
            f"{folder} was trained on a base model with other weights; pass that one with --model."
        )

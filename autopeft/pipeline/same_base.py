"""Whether trained weights meet the base model that they were trained on, by what `training.json` keeps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import nn

from autopeft import model
from autopeft.errors import ModelError
from autopeft.pipeline.prepare import Prepared

BASE_SAMPLE = "base_sample"


def base_sample(prepared: Prepared) -> str | None:
    """A digest over a sample of the base model's weights without its head; None of a quantised one."""
    return model.sample_digest(prepared.base.module, exclude=prepared.base.head_names)


def has_other_weights(weights: Path, module: nn.Module) -> bool:
    """Whether a base model is known to have other weights than the one that a folder was trained on.

    Folders of earlier versions do not tell.
    """
    wanted = trained_facts(weights / "training.json").get(BASE_SAMPLE)
    if not isinstance(wanted, str):
        return False
    apart = (*model.head_names(module), *model.modules_kept_whole(weights))
    seen = model.sample_digest(module, exclude=apart)
    return seen is not None and seen != wanted


def require_same_base(weights: Path, module: nn.Module) -> None:
    """Raise a ModelError where `has_other_weights`."""
    if has_other_weights(weights, module):
        raise ModelError(
            f"The base model has other weights than the one that {weights} was trained on; pass that one, or "
            "put it back in its place."
        )


def trained_facts(path: Path) -> dict[str, Any]:
    """The content of a `training.json`; empty where it is missing or damaged."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}

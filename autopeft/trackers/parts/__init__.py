"""What trackers share: the import of a client, and names for charts."""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType
from typing import Any

from autopeft.errors import SpecError
from autopeft.extension import Values

PROJECT = "autopeft"  # groups the runs of all searches, where the user names no other project
_CHARTED = ("loss", "metric")


def require(tracker: str) -> None:
    """Raise SpecError where the client, a module with the name of the tracker, is not installed."""
    if importlib.util.find_spec(tracker) is None:
        raise SpecError(
            f"--report-to {tracker} needs the package {tracker}, which is not installed; run "
            f'pip install "autopeft[{tracker}]".'
        )


def client(module: str) -> Any:
    """The client library, imported now: an import costs seconds that no other search should pay."""
    loaded: ModuleType = importlib.import_module(module)
    return loaded


def charted(values: Values) -> dict[str, float]:
    """Loss and metric under the stage of a measurement, since stages differ in length and split.

    Example:
        >>> charted({"stage": "rung_0", "loss": 0.5, "arm": "lora/all"})
        {'rung_0/loss': 0.5}
    """
    return {f"{values['stage']}/{name}": float(values[name]) for name in _CHARTED if name in values}

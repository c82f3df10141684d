"""The protocol of an experiment tracker."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, runtime_checkable

Values = Mapping[str, bool | int | float | str]


class TrackedRun(Protocol):
    """One search in a tracker. Any method may raise; the search goes on without the tracker then."""

    def measured(self, values: Values, *, number: int) -> None:
        """Log a measurement.

        Args:
            values: `stage` (`rung_0`, `confirm`, `test`, …), `arm`, `plan_id`, `seed`, `status`,
                `trainable_params`, `learning_rate`, `train_steps` and `train_seconds`; `rung` counts from 0
                and is absent off the rungs; `loss` and `metric` are absent where there is none.
            number: Counts the measurements of the search from 0.
        """

    def close(self, outcome: Values | None) -> None:
        """Log the answer of the search by dotted name, such as `verdict.label`; None where it broke off."""


@runtime_checkable
class Tracker(Protocol):
    """An experiment tracker, which logs through a client library of its own."""

    name: str  # what specifications call it

    def require(self) -> None:
        """Raise SpecError where the client is not installed; the message has the command to install it."""

    def open(self, folder: Path, settings: Values) -> TrackedRun:
        """Start to log a search.

        Args:
            folder: Of the search; its last part names the run.
            settings: Of the search, by dotted name.
        """

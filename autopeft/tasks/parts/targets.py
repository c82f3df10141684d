"""Checks of what a task is fitted to, the same for every task type."""

from __future__ import annotations

from collections.abc import Sequence

from autopeft.errors import DataError, UnknownNameError
from autopeft.extension import Target


def require_kind(task: str, target: Target, kinds: Sequence[str]) -> None:
    """Raise DataError where the target is none of the kinds that the task learns."""
    if target.kind not in kinds:
        *others, last = kinds
        known = f"{', '.join(others)} or {last}" if others else last
        raise DataError(
            f"{task} learns {known}, but the target of these rows is {target.kind}; choose another --task."
        )


def require_metric(task: str, metric: str, known: Sequence[str]) -> None:
    """Raise UnknownNameError where the task cannot be judged by the metric."""
    if metric not in known:
        raise UnknownNameError(f"metric of {task}", metric, known)

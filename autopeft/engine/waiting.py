"""Waiting for measurements: until the first is done, and what is told of one that lasts much longer."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import Any

from autopeft.records import Measurement, Plan

_TIMES, _LEAST_SECONDS = 3.0, 60.0  # the longest of those that have finished, and at least; chosen by hand
_SLICE_SECONDS = 0.5  # chosen by hand

log = logging.getLogger(__name__)


def patience(finished: Sequence[Measurement], *, n_idle: int) -> float | None:
    """Seconds until `tell_stragglers` is called; None where no worker is idle, or nothing has finished."""
    if not finished or n_idle < 1:
        return None
    return max(_LEAST_SECONDS, _TIMES * max(measurement.total_seconds for measurement in finished))


def tell_stragglers(running: Sequence[Plan], finished: Sequence[Measurement], *, n_idle: int) -> None:
    """Log which plans the search waits for; it goes on once the last of them is measured."""
    names = ", ".join(dict.fromkeys(plan.digest for plan in running))
    longest = max(measurement.total_seconds for measurement in finished)
    text = "Idle workers: %d. The search waits for plan %s; those that have finished took at most %.0f s."
    log.info(text, n_idle, names, longest)


def wait_for_first(futures: Collection[Future[Any]], *, timeout: float | None = None) -> None:
    """Wait until one of some futures is done, or for so many seconds; signals are heard meanwhile.

    The wait is cut into slices, since on Windows Ctrl-C is heard between them alone.
    """
    end = None if timeout is None else time.monotonic() + timeout
    while futures:
        left = _SLICE_SECONDS if end is None else min(_SLICE_SECONDS, max(0.0, end - time.monotonic()))
        is_over = end is not None and time.monotonic() + left >= end
        if wait(futures, timeout=left, return_when=FIRST_COMPLETED).done or is_over:
            return

"""Stragglers: measurements that last much longer than the others of their kind, while workers are idle."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from autopeft.records import Measurement, Plan

_TIMES, _LEAST_SECONDS = 3.0, 60.0  # the longest of those that have finished, and at least; chosen by hand

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

"""The learning rate over the steps of a full run, and of a rung that may be paused and resumed."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

WARMUP_SHARE = 0.06  # as in RoBERTa, Liu et al. 2019, arXiv:1907.11692


@dataclass(frozen=True, kw_only=True)
class RateSchedule:
    """Shares of the peak learning rate by step: one or several cycles, each warmed up and decayed to 0.

    `ends` are the steps after which a cycle is over, ascending. A full run has one cycle; a rung has those of
    the rungs below it and one more. It resumes where the rung below ended, and is judged after a decay.
    """

    ends: tuple[int, ...]

    @property
    def n_steps(self) -> int:
        """Steps of all cycles together."""
        return self.ends[-1]

    def multiplier(self, step: int) -> float:
        """Share of the peak learning rate at a step, in (0, 1]: 6 % linear warm-up, then linear decay."""
        cycle = bisect_right(self.ends, step)
        start = self.ends[cycle - 1] if cycle else 0
        n_steps, n_done = self.ends[cycle] - start, step - start
        warmup = max(1, round(WARMUP_SHARE * n_steps))
        return min((n_done + 1) / warmup, (n_steps - n_done) / max(1, n_steps - warmup + 1))


def rate_schedule(n_steps: int, *, rung_steps: Sequence[int] = ()) -> RateSchedule:
    """The schedule of so many steps, with one cycle for each shorter rung; a full run has no rungs.

    Plans rank far better after a decay than at a constant rate or in the middle of a long decay
    (reports/LOG.md, 2026-11-25, by `rung_schedules.py` of commit a7a790e4).

    Source:
        Warm restarts: Loshchilov & Hutter 2017, arXiv:1608.03983. They decay by a cosine, this linearly.

    Example:
        >>> rate_schedule(75, rung_steps=(30, 75, 115)).ends
        (30, 75)
    """
    return RateSchedule(ends=(*(n for n in rung_steps if n < n_steps), n_steps))


def full_run_steps(*, n_train: int, batch_size: int, epochs: float | None, max_steps: int | None) -> int:
    """Optimizer steps of one full run: `max_steps` if set, else those of the epochs, at least 1."""
    if max_steps is not None:
        return max_steps
    assert epochs is not None, "epochs are derived where neither is set"
    per_epoch = max(1, n_train // min(batch_size, n_train))
    return max(1, math.ceil(epochs * per_epoch))

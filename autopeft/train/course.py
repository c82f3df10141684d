"""How the learning rate goes in a full run, and in a rung that can be paused and taken up again."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

_WARMUP_SHARE = 0.06  # as in RoBERTa, Liu et al. 2019, arXiv:1907.11692


@dataclass(frozen=True, kw_only=True)
class Course:
    """Shares of the peak learning rate by step, from 0: one leg or several, each decayed to 0.

    `ends` are the steps after which a leg is over, ascending. A full run has one leg. A rung has the
    legs of the rungs below it and one of its own: it goes on from where the rung below has ended, warmed up
    again, so that every rung is judged at the end of a decay and none of its steps is lost to the next.
    """

    ends: tuple[int, ...]

    @property
    def n_steps(self) -> int:
        """Steps of the whole run."""
        return self.ends[-1]

    def multiplier(self, step: int) -> float:
        """Learning rate at a step as a share of its peak, in (0, 1]: 6 % warm-up, then linear decay."""
        leg = bisect_right(self.ends, step)
        start = self.ends[leg - 1] if leg else 0
        n_steps, done = self.ends[leg] - start, step - start
        warmup = max(1, round(_WARMUP_SHARE * n_steps))
        return min((done + 1) / warmup, (n_steps - done) / max(1, n_steps - warmup + 1))


def full_course(n_steps: int) -> Course:
    """A full run: one leg."""
    return Course(ends=(n_steps,))


def rung_course(n_steps: int, *, rung_steps: Sequence[int]) -> Course:
    """A rung of so many steps, with a leg for each shorter rung.

    Decayed rungs rank plans far better than such as stop on a constant rate or in the middle of a long
    decay (reports/LOG.md, 2026-11-25, by `reports/studies/rung_schedules.py`).

    Source:
        Warm restarts: Loshchilov & Hutter 2017, arXiv:1608.03983; the legs here decay linearly.

    Example:
        >>> rung_course(75, rung_steps=(30, 75, 115)).ends
        (30, 75)
    """
    return Course(ends=(*(n for n in rung_steps if n < n_steps), n_steps))


def full_run_steps(*, n_train: int, batch_size: int, epochs: float, max_steps: int | None) -> int:
    """Optimizer steps of one full run."""
    per_epoch = max(1, n_train // min(batch_size, n_train))
    return max_steps or max(1, math.ceil(epochs * per_epoch))

"""How the learning rate goes in a full run, and in a rung that can be paused and taken up again."""

from __future__ import annotations

import math
from dataclasses import dataclass

SCHEDULE = (
    "linear decay to 0 after 6 % warm-up; AdamW, no weight decay, gradient norm clipped at 1; "
    "task head at 10 / inputs at its output layer and 1 / inputs below it, "
    "or in proportion, the output layer at the plan's rate, where nothing else is trained"
)
_WARMUP_SHARE = 0.06  # as in RoBERTa, Liu et al. 2019, arXiv:1907.11692
_RUNG_WARMUP_SHARE = 0.2  # of the first rung, for all rungs alike; chosen by hand
_BRANCH_SHARE = 0.25  # of a rung's steps; reports/LOG.md, 2026-11-25, compares it with other schedules


@dataclass(frozen=True, kw_only=True)
class Course:
    """Shares of the peak learning rate by step, from 0.

    Up to `branch_at` a rung runs along a trunk that does not know how long the run will be: there it is
    paused, and a longer rung takes it up. From there on it decays to 0. A full run decays from its
    warm-up on and cannot be paused (`branch_at` is 0).
    """

    n_steps: int
    warmup_steps: int
    branch_at: int

    def multiplier(self, step: int) -> float:
        """Learning rate at a step as a share of its peak, in (0, 1]."""
        rise = (step + 1) / self.warmup_steps
        start = max(self.branch_at, 0 if self.branch_at else self.warmup_steps - 1)
        if step < start:
            return min(1.0, rise)
        return min(rise, (self.n_steps - step) / (self.n_steps - start))


def full_course(n_steps: int) -> Course:
    """A full run: 6 % warm-up, then linear decay."""
    return Course(n_steps=n_steps, warmup_steps=max(1, round(_WARMUP_SHARE * n_steps)), branch_at=0)


def rung_course(n_steps: int, *, first_rung_steps: int) -> Course:
    """A rung: the warm-up of the first one, a constant rate, and a decay over the last quarter.

    Source:
        Constant trunk with decay branches: Hägele et al. 2024, arXiv:2405.18392.
    """
    warmup = max(1, round(_RUNG_WARMUP_SHARE * first_rung_steps))
    return Course(
        n_steps=n_steps, warmup_steps=warmup, branch_at=n_steps - max(1, round(_BRANCH_SHARE * n_steps))
    )


def full_run_steps(*, n_train: int, batch_size: int, epochs: float, max_steps: int | None) -> int:
    """Optimizer steps of one full run."""
    per_epoch = max(1, n_train // min(batch_size, n_train))
    return max_steps or max(1, math.ceil(epochs * per_epoch))

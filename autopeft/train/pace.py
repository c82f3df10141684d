"""How fast a plan is trained and evaluated on this machine, from a run of a few steps."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from autopeft.errors import TrainingError
from autopeft.records import Fidelity, Plan, Status
from autopeft.train.bench import Bench
from autopeft.train.compute import padded_tokens
from autopeft.train.encoding import train_rows

_SECONDS = 2.0  # of the timed run, about; chosen by hand
_MOST_STEPS = 8  # of the timed run; chosen by hand
_COLD_SECONDS = 10.0  # of a first step, up to which it may be the preparation of kernels; chosen by hand
_TYPICAL_STEPS = 64  # whose mean length is that of a run; chosen by hand


@dataclass(frozen=True, kw_only=True)
class Pace:
    """Seconds of a step, of an evaluated example, and of a run beside these (attaching, checking)."""

    step_seconds: float
    example_seconds: float
    run_seconds: float


def pace_of(bench: Bench, plan: Plan) -> Pace:
    """The pace of a plan: one step and one example, then as many more as take about two seconds.

    A first step of a process may last long, so that a slow one is timed again. Steps and examples are taken
    to last in proportion to their tokens. Nothing is kept of the runs.

    Raises TrainingError where the plan cannot be trained.
    """
    bench = replace(bench, keep_weights=None, paused=None)
    pace = _timed(bench, plan, n_steps=1, n_examples=1)
    if _SECONDS / _MOST_STEPS < pace.step_seconds < _COLD_SECONDS:
        pace = _timed(bench, plan, n_steps=1, n_examples=1)
    n_steps = min(_MOST_STEPS, int(_SECONDS / max(pace.step_seconds, 1e-9)))
    if n_steps < 1:
        return pace
    n_examples = min(len(bench.splits["confirm"].labels), n_steps * bench.batch_size)
    return _timed(bench, plan, n_steps=n_steps, n_examples=n_examples)


def _timed(bench: Bench, plan: Plan, *, n_steps: int, n_examples: int) -> Pace:
    fidelity = Fidelity(
        split="confirm",
        train_steps=n_steps,
        train_examples=n_steps * bench.batch_size,
        eval_examples=n_examples,
        seed=0,
    )
    run = bench.measure(plan, fidelity)
    if run.status is Status.FAIL or not run.trained_steps:
        raise TrainingError(f"A run of {n_steps} steps could not be timed: {run.error or 'nothing trains'}.")
    return Pace(
        step_seconds=run.train_seconds / n_steps * _longer_steps(bench, n_steps),
        example_seconds=run.eval_seconds / n_examples * _longer_examples(bench, n_examples),
        run_seconds=run.overhead_seconds,
    )


def _longer_steps(bench: Bench, n_steps: int) -> float:
    """Tokens of a typical step, relative to those of the first few."""
    lengths = bench.splits["train"].lengths
    rows = train_rows(lengths, n_steps=_TYPICAL_STEPS, batch_size=bench.batch_size, seed=0)
    tokens = [padded_tokens(step, lengths) for step in rows]
    return float(np.mean(tokens) / np.mean(tokens[:n_steps]))


def _longer_examples(bench: Bench, n_examples: int) -> float:
    """Tokens of a typical example of the confirm split, relative to those that are evaluated."""
    split = bench.splits["confirm"]
    return float(split.lengths.mean() / split.lengths[split.subset(n_examples)].mean())

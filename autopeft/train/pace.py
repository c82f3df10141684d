"""Times training and evaluation of a plan on this machine by a few steps."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from autopeft.errors import TrainingError
from autopeft.train.bench import Bench
from autopeft.train.compute import padded_tokens
from autopeft.train.encoding import train_rows
from autopeft.types import Fidelity, Plan, Status

_SECONDS = 2.0  # of the timed run, about; heuristic
_MOST_STEPS = 8  # of the timed run; heuristic
_COLD_SECONDS = 10.0  # a first step up to this long is timed again; heuristic
TYPICAL_STEPS = 64  # steps whose mean length represents a whole run; heuristic


@dataclass(frozen=True, kw_only=True)
class Pace:
    """Seconds of a step, of an evaluated example, and of all else in a run."""

    step_seconds: float
    example_seconds: float
    run_seconds: float


def pace_of(bench: Bench, plan: Plan) -> Pace:
    """Time a few steps and examples of a plan; TrainingError if it cannot be trained."""
    bench = replace(bench, keep_weights=None, under_way=None, curve=None)
    pace = _timed(bench, plan, n_steps=1, n_examples=1)
    if _SECONDS / _MOST_STEPS < pace.step_seconds < _COLD_SECONDS:  # kernels may have been prepared in it
        pace = _timed(bench, plan, n_steps=1, n_examples=1)
    n_steps = min(_MOST_STEPS, int(_SECONDS / max(pace.step_seconds, 1e-9)))
    if n_steps < 1:
        return pace
    n_examples = min(len(bench.splits["confirm"].labels), n_steps * bench.batch_size)
    return _timed(bench, plan, n_steps=n_steps, n_examples=n_examples)


def _timed(bench: Bench, plan: Plan, *, n_steps: int, n_examples: int) -> Pace:
    """Measure a run of some steps, and scale its times to rows of typical length."""
    fidelity = Fidelity(
        split="confirm",
        train_steps=n_steps,
        train_examples=n_steps * bench.batch_size,
        eval_examples=n_examples,
        seed=0,
    )
    split = bench.splits["confirm"]
    evaluated = split.lengths[split.subset(n_examples)].mean()
    example_scale = float(split.lengths.mean() / evaluated)
    run = bench.measure(plan, fidelity)
    if run.status is Status.FAIL or not run.trained_steps:
        raise TrainingError(f"A run of {n_steps} steps could not be timed: {run.error or 'nothing trains'}.")
    step_scale = _mean_tokens(bench, TYPICAL_STEPS) / _mean_tokens(bench, n_steps)
    return Pace(
        step_seconds=run.train_seconds / n_steps * step_scale,
        example_seconds=run.eval_seconds / n_examples * example_scale,
        run_seconds=run.overhead_seconds,
    )


def _mean_tokens(bench: Bench, n_steps: int) -> float:
    """Compute the mean tokens of the first steps of a run."""
    lengths = bench.splits["train"].lengths
    rows = train_rows(lengths, n_steps=n_steps, batch_size=bench.batch_size, seed=0)
    return float(np.mean([padded_tokens(step, lengths) for step in rows]))

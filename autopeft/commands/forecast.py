"""How long a search takes: predicted from a few timed steps of the baseline, before anything is measured."""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass, replace
from itertools import chain

from autopeft import space
from autopeft.engine import SearchProblem
from autopeft.engine.driver import seconds_side_by_side
from autopeft.errors import TrainingError
from autopeft.finished.refit import refit_cost
from autopeft.report.formatting import duration
from autopeft.setup.build import Prepared
from autopeft.setup.resources import n_workers
from autopeft.train import Pace, pace_of
from autopeft.types import Fidelity

PROBE_RATE = 1e-5  # so low that no run diverges
LONG_SECONDS = 8 * 3600.0  # of a search that is not started without asking; heuristic
_PASS_SHARE = 0.05  # of a full run, what the sensitivity pass takes at most
_USUAL_REPORT_SECONDS = 5.0  # for weights, exports and the report; heuristic
# The time of a search as shares of what its plan takes at the pace of LoRA: other methods are slower.
# Heuristic.
_LOW, _EXPECTED, _HIGH = 0.9, 1.1, 1.4


@dataclass(frozen=True, kw_only=True)
class Span:
    """An expected value, and the range in which it probably lies."""

    low: float
    expected: float
    high: float


@dataclass(frozen=True, kw_only=True)
class SearchTime:
    """How long a search takes.

    `full_run_seconds` is R, one full run of the baseline with its evaluation. `seconds` are those of the
    whole command. `price` is the expected one, in the currency of `--gpu-price`. `fitting_steps` is the
    `--max-steps` of a search that takes `--max-time`, or 8 hours without it; None if this search does not
    take longer.
    """

    full_run_seconds: float
    seconds: Span
    price: float | None = None
    fitting_steps: int | None = None

    @property
    def is_long(self) -> bool:
        """Whether the search takes more than 8 hours, and more than `--max-time`."""
        return self.fitting_steps is not None and self.seconds.expected > LONG_SECONDS

    def __str__(self) -> str:
        """Format the time, the price and the number of steps that would fit."""
        seconds, words = self.seconds, duration(self.seconds.expected)
        if seconds.low < seconds.high:
            words += f" ({duration(seconds.low)} to {duration(seconds.high)})"
        if self.price is not None:
            words += f", price {self.price:,.2f}"
        words += f", R is {duration(self.full_run_seconds)}"
        return words + (f"; --max-steps {self.fitting_steps} would fit" if self.fitting_steps else "")


def search_time(prepared: Prepared, problem: SearchProblem, *, so_far: float) -> SearchTime | None:
    """Time a few steps of the baseline, and estimate what a search takes at this pace.

    Loading took the seconds `so_far`. The answer is None if the baseline cannot be trained.
    """
    baseline = space.plan_of(space.default_lora(problem.space, problem.context), problem.context)
    try:
        pace = pace_of(prepared.bench, replace(baseline, learning_rate=PROBE_RATE))
    except TrainingError:
        return None
    search, hourly = prepared.spec.search, prepared.spec.execution.gpu_price
    n_at_once = n_workers(prepared.spec.execution) if prepared.base.device.type == "cuda" else 1
    full_run, overhead = _seconds(problem.lengths.full(seed=0), pace), so_far + _USUAL_REPORT_SECONDS
    # Limits never shorten the full runs of the baseline.
    least = overhead + seconds_side_by_side([("confirm", full_run)] * len(problem.seeds), n_at_once)
    limit = min(search.max_time_seconds or math.inf, (search.max_cost or math.inf) * full_run)

    def seconds_of(n_steps: int) -> float:
        lengths = replace(problem.lengths, full_steps=n_steps)
        return _planned_seconds(prepared, replace(problem, lengths=lengths), pace, n_at_once)

    planned = seconds_of(problem.lengths.full_steps)
    low, expected, high = (
        min(max(limit, least), overhead + share * planned) for share in (_LOW, _EXPECTED, _HIGH)
    )
    fitting, wish = None, search.max_time_seconds or LONG_SECONDS
    if expected > wish:
        shorter = range(1, problem.lengths.full_steps)
        fitting = max(1, bisect_right(shorter, (wish - overhead) / _EXPECTED, key=seconds_of))
        unit = 10 ** max(0, len(str(fitting)) - 2)
        fitting = fitting // unit * unit  # two digits, as the time is an estimate
    return SearchTime(
        full_run_seconds=full_run,
        seconds=Span(low=low, expected=expected, high=high),
        price=None if hourly is None else hourly * expected / 3600,
        fitting_steps=fitting,
    )


def _planned_seconds(prepared: Prepared, problem: SearchProblem, pace: Pace, n_at_once: int) -> float:
    """Sum the seconds of all runs that a search plans, of the sensitivity pass and of the refit."""
    times = [(fidelity.split, _seconds(fidelity, pace)) for fidelity in planned_runs(problem)]
    rest = _PASS_SHARE * _seconds(problem.full, pace)
    return (
        seconds_side_by_side(times, n_at_once) + rest + further_steps(prepared, problem) * pace.step_seconds
    )


def _seconds(fidelity: Fidelity, pace: Pace) -> float:
    steps = 0 if fidelity.split == "test" else fidelity.train_steps
    example = pace.example_seconds
    if fidelity.split == "search":  # short runs make no texts, which may take most of an evaluation
        rows = fidelity.train_examples / fidelity.train_steps
        example = min(example, pace.step_seconds / rows)
    return steps * pace.step_seconds + fidelity.eval_examples * example + pace.run_seconds


def planned_runs(problem: SearchProblem) -> list[Fidelity]:
    """List the runs of a search, as if no limit stops it."""
    return list(chain.from_iterable(problem.planned.values()))


def further_steps(prepared: Prepared, problem: SearchProblem) -> float:
    """Return the steps of the refit, less those that full runs do not repeat."""
    return refit_cost(prepared) * problem.lengths.full_steps - repeated_steps(problem)


def repeated_steps(problem: SearchProblem) -> int:
    """Count the steps of planned full runs that short runs, which have the first seed alone, have done."""
    from_scratch = len(problem.head_factors) - 1 + (problem.is_thorough and problem.has_head)
    n_continued = problem.planned["full runs"].count(problem.full) - from_scratch
    n_begun = min(problem.n_trials, n_continued) + len(problem.sizes)
    return n_begun * problem.lengths.kept_steps

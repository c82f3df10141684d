"""What a run measured: records of plans, sizes of splits, positions of learning rates, costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from autopeft.records import (
    FLOAT32_BYTES,
    FullRun,
    Measurement,
    Plan,
    SearchResult,
    Status,
    rate,
    rate_position,
)
from autopeft.report.formatting import NOTHING
from autopeft.report.plan_names import is_untrained, marks_of

_EDGE = 0.1  # of a range, to each side; chosen by hand


def record_of(records: Sequence[FullRun], plan: Plan | None) -> FullRun | None:
    """The record of a plan; None if it has none."""
    return next((record for record in records if record.plan == plan), None)


def is_by_chance(result: SearchResult) -> bool:
    """Whether no full run is surely better than guesses."""
    chance = result.setting.chance
    return chance is not None and not any(run.is_surely_above(chance) for run in result.full_runs)


def arms(result: SearchResult) -> dict[Plan, str]:
    """Every measured plan with what proposed it: its first trial, else the stage that measured it."""
    others = {run.plan: "smaller budget" for run in result.measurements}
    sizes = {step.plan: str(step.arm) for step in result.sizes}
    full = {record.plan: record.name for record in result.full_runs}
    first = {proposal.plan: str(proposal.arm) for proposal in reversed(result.proposals)}
    return others | sizes | full | first


def sources(result: SearchResult) -> dict[Plan, str]:
    """Every measured plan with list, sampler, or, if no trial proposed it, smaller budget."""
    others = {run.plan: "smaller budget" for run in result.measurements}
    return others | {proposal.plan: proposal.source for proposal in reversed(result.proposals)}


@dataclass(frozen=True, kw_only=True)
class FullRow:
    """A plan that was trained in full; `mark` is its name, or finalist.

    `difference` is that of the verdict (mean, low, high) in the rival's row. `peak_bytes` is the training
    memory beside the weights.
    """

    mark: str
    confirm: FullRun
    test: FullRun | None
    difference: tuple[float, float, float] | None
    peak_bytes: int

    @property
    def plan(self) -> Plan:
        """The plan."""
        return self.confirm.plan


def full_rows(result: SearchResult) -> tuple[FullRow, ...]:
    """The plans that were trained in full, in the order of the result: best, baseline, rival, others."""
    verdict, memory = result.verdict, dict[Plan, int]()
    for run in result.measurements:
        memory[run.plan] = max(memory.get(run.plan, 0), run.peak_bytes)
    compared = None
    if verdict.mean_difference is not None and verdict.interval_95 is not None:
        compared = (verdict.mean_difference, *verdict.interval_95)
    return tuple(
        FullRow(
            mark=marks_of(result, record.plan) or "finalist",
            confirm=record,
            test=record_of(result.test, record.plan),
            difference=compared if record.plan == result.rival else None,
            peak_bytes=memory.get(record.plan, 0),
        )
        for record in result.full_runs
    )


def short_runs(result: SearchResult) -> list[Measurement]:
    """The short runs that finished, lowest loss first."""
    runs = [m for m in result.measurements if m.fidelity.split == "search" and m.status is Status.COMPLETE]
    return sorted(runs, key=lambda run: float("inf") if run.loss is None else run.loss)


def failures(result: SearchResult) -> list[Measurement]:
    """The runs that diverged or broke off, in their order."""
    return [run for run in result.measurements if run.status is not Status.COMPLETE]


def adapter_megabytes(result: SearchResult) -> float:
    """Size of the adapter's file with the head, whose numbers are float32."""
    return FLOAT32_BYTES * (result.best.trainable_params + result.setting.head_params) / 1e6


def costs(result: SearchResult) -> list[tuple[str, float, float | None]]:
    """Stage, its seconds, and the same in R; None without a timed full run."""
    cost = result.cost
    stages = {
        "sensitivity scores": cost.sensitivity_seconds,
        "short runs": cost.search_seconds,
        "full runs": cost.full_seconds,
        "test split": cost.test_seconds,
        "in all": cost.total_seconds,
        "of this, smaller budgets": cost.sizes_seconds,
    }
    if not result.sizes:
        del stages["of this, smaller budgets"]
    full = cost.full_run_seconds
    return [(name, seconds, seconds / full if full else None) for name, seconds in stages.items()]


def examples(result: SearchResult, split: str) -> str:
    """The size of a split: `595`, or `352 of 595` if fewer examples were evaluated, with their groups."""
    splits = result.setting.splits
    size, n_groups = getattr(splits, split), getattr(splits, f"{split}_groups", 0)
    runs = (run.fidelity.eval_examples for run in result.measurements if run.fidelity.split == split)
    seen = max(runs, default=0)
    shown = f"{seen:,} of {size:,}" if 0 < seen < size else f"{size:,}"
    return f"{shown} in {n_groups:,} groups" if n_groups else shown


def n_seeds(result: SearchResult) -> int:
    """The number of seeds of the full runs."""
    return max(len(record.seeds) for record in result.full_runs)


def error_over(result: SearchResult) -> str:
    """What a standard error is over: `3 seeds and the examples`, or `the groups of examples, of one seed`."""
    units = "the groups of examples" if result.setting.splits.confirm_groups else "the examples"
    return f"{units}, of one seed" if n_seeds(result) == 1 else f"{n_seeds(result)} seeds and {units}"


def position_of(plan: Plan, result: SearchResult) -> float | None:
    """The position of a plan's learning rate; None if the run kept no range for it.

    A plan of the user has none: its scale may be another, and with it the range.
    """
    if any(p.plan == plan and p.arm.kind == "given" for p in result.proposals):
        return None
    bounds = result.setting.learning_rate_ranges.get(plan.lead_method or "")
    return None if bounds is None else rate_position(plan.learning_rate, bounds)


def rate_words(plan: Plan, result: SearchResult) -> str:
    """A plan's learning rate, with its position if it has one; a dash for the untrained model."""
    if is_untrained(result, plan):
        return NOTHING
    position = position_of(plan, result)
    if position is None:
        return rate(plan.learning_rate)
    low, high = map(rate, result.setting.learning_rate_ranges[plan.lead_method or ""])
    return f"{rate(plan.learning_rate)} (position {position:.2f} of {low} … {high})"


def edge_sentence(result: SearchResult) -> str:
    """What to do if the best rate lies in the outer tenth of its method's range; else empty."""
    position = position_of(result.best, result) if result.best.adapters else None
    if position is None or _EDGE <= position <= 1 - _EDGE:
        return ""
    end, direction = ("low", "lower") if position < _EDGE else ("high", "higher")
    return (
        f"The best learning rate lies at the {end} end of its range: a {direction} one may be better. "
        "Give the method another range in a search space of your own."
    )

"""Rows of a report's tables (full runs, short runs, costs), and look-ups of plans in a result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from autopeft.report.plan_names import PartWords, is_untrained, marks_of, name_of
from autopeft.types import (
    FLOAT32_BYTES,
    FullRun,
    Measurement,
    Plan,
    SearchResult,
    SearchSoFar,
    Status,
    proposal_of,
    rate_position,
)

_SIZE_ARM = "smaller budget"  # of plans that no trial proposed


def record_of(records: Sequence[FullRun], plan: Plan | None) -> FullRun | None:
    """Find the record of a plan; None if it has none."""
    return next((record for record in records if record.plan == plan), None)


def scored_record(result: SearchResult, plan: Plan) -> FullRun:
    """Find a plan's record on the test split; on the confirm split if the test split was not read."""
    record = record_of(result.test, plan) or record_of(result.full_runs, plan)
    assert record is not None, "a finalist has a full run"
    return record


def arms(result: SearchResult | SearchSoFar) -> dict[Plan, str]:
    """Map every measured plan to what proposed it: its first trial, else the stage that measured it."""
    names = {run.plan: _SIZE_ARM for run in result.measurements}
    names |= {step.plan: str(step.arm) for step in result.sizes}
    names |= {record.plan: record.name for record in result.full_runs}
    for plan in names:
        if (proposal := proposal_of(plan, result.proposals)) is not None:
            slower = "" if plan.head_factor == 1 else f", head rate / {1 / plan.head_factor:g}"
            names[plan] = f"{proposal.arm}{slower}"
    return names


@dataclass(frozen=True, kw_only=True)
class FullRow:
    """A plan that was trained in full; `mark` is its role, or finalist, and `words` describes it.

    `difference` is the verdict's mean, low and high end in the challenger's row, else None. `peak_bytes` is
    the training memory without the base model's weights. `learning_rate` and `train_seconds` are None for the
    untrained model. `file_bytes` is the size of the adapter with the head.
    """

    mark: str
    words: str
    plan: Plan
    confirm: FullRun
    test: FullRun | None
    difference: tuple[float, float, float] | None
    learning_rate: float | None
    train_seconds: float | None
    peak_bytes: int
    file_bytes: int


def full_rows(result: SearchResult, words: PartWords) -> tuple[FullRow, ...]:
    """Gather the plans that were trained in full, in the order of the result, best first."""
    verdict, memory = result.verdict, dict[Plan, int]()
    for run in result.measurements:
        memory[run.plan] = max(memory.get(run.plan, 0), run.peak_bytes)
    compared = None
    if verdict.mean_difference is not None and verdict.interval_95 is not None:
        compared = (verdict.mean_difference, *verdict.interval_95)
    return tuple(
        FullRow(
            mark=marks_of(result, record.plan) or "finalist",
            words=name_of(record.plan, result, words.labels),
            plan=record.plan,
            confirm=record,
            test=record_of(result.test, record.plan),
            difference=compared if record.plan == result.challenger else None,
            learning_rate=None if is_untrained(result, record.plan) else record.plan.learning_rate,
            train_seconds=None if is_untrained(result, record.plan) else record.train_seconds,
            peak_bytes=memory.get(record.plan, 0),
            file_bytes=FLOAT32_BYTES * (record.plan.trainable_params + result.setting.head_params),
        )
        for record in result.full_runs
    )


def runs_on(split: str, result: SearchResult | SearchSoFar) -> list[Measurement]:
    """Select the runs on a split that finished, lowest loss first."""
    runs = [m for m in result.measurements if m.fidelity.split == split and m.status is Status.COMPLETE]
    return sorted(runs, key=lambda run: float("inf") if run.loss is None else run.loss)


def run_rows(split: str, result: SearchResult | SearchSoFar, words: PartWords) -> list[dict[str, Any]]:
    """Gather the runs on a split that finished, lowest loss first, each with its role and who proposed it."""
    rows = []
    for run in runs_on(split, result):
        proposal, is_trained = proposal_of(run.plan, result.proposals), not is_untrained(result, run.plan)
        rows.append(
            {
                "mark": marks_of(result, run.plan),
                "words": name_of(run.plan, result, words.labels),
                "source": _SIZE_ARM if proposal is None else proposal.source,
                "run": run,
                "learning_rate": run.plan.learning_rate if is_trained else None,
            }
        )
    return rows


def costs(result: SearchResult) -> tuple[tuple[str, float, float | None], ...]:
    """List each stage with its seconds and R, which is None without a timed full run."""
    cost = result.cost
    stages = {
        "sensitivity scores": cost.sensitivity_seconds,
        "short runs": cost.search_seconds,
        "full runs": cost.full_seconds,
        "test split": cost.test_seconds,
        **({"training on all rows": cost.refit_seconds} if cost.refit_seconds else {}),
        "total": cost.total_seconds,
    }
    if result.sizes:
        stages["of which smaller budgets"] = cost.sizes_seconds
    full = cost.full_run_seconds
    return tuple((name, seconds, seconds / full if full else None) for name, seconds in stages.items())


def examples(result: SearchResult | SearchSoFar, split: str) -> str:
    """Format the size of a split: `595`, or `352 of 595` if fewer were evaluated, and their groups."""
    splits = result.setting.splits
    size, n_groups = getattr(splits, split), getattr(splits, f"{split}_groups", 0)
    runs = (run.fidelity.eval_examples for run in result.measurements if run.fidelity.split == split)
    n_evaluated = max(runs, default=0)
    shown = f"{n_evaluated:,} of {size:,}" if 0 < n_evaluated < size else f"{size:,}"
    return f"{shown} in {n_groups:,} groups" if n_groups else shown


def position_of(plan: Plan, result: SearchResult | SearchSoFar) -> float | None:
    """Return the position of a plan's learning rate in its range, 0 to 1; None without a range.

    It is also None for the user's own baseline, which may have another scale and other good rates.
    """
    if any(p.plan == plan and p.arm.kind == "given" for p in result.proposals):
        return None
    bounds = result.setting.learning_rate_ranges.get(plan.lead_method or "")
    return None if bounds is None else rate_position(plan.learning_rate, bounds)

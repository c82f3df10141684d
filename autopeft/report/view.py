"""What the report's sections show, as plain values that both templates lay out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean

from autopeft.records import Confirmation, Measurement, Plan, SearchResult, Status, Verdict
from autopeft.report.measured import smallest_mark
from autopeft.report.tables import ANSWERS, NO_ARM

MAX_ROWS = 40  # chosen by hand: as many as a reader scrolls through; trials.csv has the rest


@dataclass(frozen=True, kw_only=True)
class Confirmed:
    """One confirmed plan; `marks` names the answers that it is, `worst` is the metric of its worst seed.

    `percent` is its share of the base model's parameters, `seconds` the mean time of a confirming run.
    """

    record: Confirmation
    marks: tuple[str, ...]
    arm: str
    percent: float
    worst: float
    seconds: float


def confirmed(result: SearchResult, arms: Mapping[Plan, str]) -> tuple[Confirmed, ...]:
    """The confirmed plans, best metric first; a plan with two names appears once."""
    sign = 1 if result.setting.greater_is_better else -1
    worst = min if result.setting.greater_is_better else max
    rows = [
        Confirmed(
            record=record,
            marks=tuple(
                smallest_mark(result) if name == "smallest" else name
                for name in ANSWERS
                if getattr(result, name) == record.plan
            ),
            arm=arms.get(record.plan, record.name),
            percent=100 * record.plan.trainable_params / result.setting.budget.base_params,
            worst=worst(record.metrics, default=record.metric_mean),
            seconds=run_seconds(result, record),
        )
        for record in {record.plan: record for record in reversed(result.confirmations)}.values()
    ]
    return tuple(sorted(rows, key=lambda row: -sign * row.record.metric_mean))


def proxies(result: SearchResult, arms: Mapping[Plan, str]) -> list[tuple[str, Measurement]]:
    """Arm and measurement of every plan at its last finished rung: last rungs first, then low losses."""
    last: dict[Plan, Measurement] = {}
    for run in result.measurements:
        if run.fidelity.split != "search" or run.status is not Status.COMPLETE:
            continue
        known = last.get(run.plan)
        if known is None or run.fidelity.train_steps > known.fidelity.train_steps:
            last[run.plan] = run
    ordered = sorted(last.values(), key=lambda run: (-run.fidelity.train_steps, _or_last(run.loss)))
    return [(arms.get(run.plan, NO_ARM), run) for run in ordered]


def spent(result: SearchResult) -> dict[Plan, float]:
    """Seconds of training on the search split by plan; a longer run goes on from the shorter one."""
    seconds: dict[Plan, float] = {}
    for run in result.measurements:
        if run.fidelity.split == "search":
            seconds[run.plan] = seconds.get(run.plan, 0.0) + run.train_seconds
    return seconds


def failures(result: SearchResult, arms: Mapping[Plan, str]) -> list[tuple[str, Measurement]]:
    """Arm and measurement of the runs that diverged or broke off, in their order."""
    failed = (run for run in result.measurements if run.status is not Status.COMPLETE)
    return [(arms.get(run.plan, NO_ARM), run) for run in failed]


def costs(result: SearchResult) -> tuple[tuple[str, float, float | None], ...]:
    """Stage, seconds, and the same in full runs (R), with their total where the result has one.

    None in place of R if no full run was timed.
    """
    cost, full = result.cost, result.cost.full_run_seconds
    seconds = (cost.sensitivity_seconds, cost.search_seconds, cost.confirm_seconds)
    stages = zip(("sensitivity", "search", "confirmation"), seconds, strict=True)
    rows = tuple((name, spent, spent / full if full else None) for name, spent in stages)
    if cost.total_seconds is None:
        return rows
    return (*rows, ("in all, test included", cost.total_seconds, cost.total_full_runs))


def scoring(result: SearchResult) -> str:
    """What the sensitivity cost, in seconds and in full runs (R)."""
    (_, seconds, in_r), *_ = costs(result)
    return f"Scoring took {seconds:.1f} s" + ("." if in_r is None else f", {in_r:.3f} R.")


def about_interval(verdict: Verdict) -> str:
    """What the chart of the difference shows beside its band: settled, or what would settle it.

    Empty for a verdict without an interval, which has no such chart.
    """
    if verdict.interval_95 is None:
        return ""
    low, high = verdict.interval_95
    reached = {verdict.label, verdict.stopped_by}
    if reached & {"better", "worse"} or low > 0 or high < 0:
        return "The line does not reach 0, so the difference is settled."
    if "equivalent" in reached:
        return "The two are equally good: the 90 % interval lies within the band."
    beyond = "more confirm examples, or seeds beyond those planned,"
    more = beyond if "futile" in reached else "more seeds or confirm examples"
    return f"The line holds 0 and leaves the band, so nothing is settled; {more} would shorten it."


def confirm_steps(result: SearchResult) -> int | None:
    """Steps of a confirming run; None if there was none."""
    steps = [run.fidelity.train_steps for run in result.measurements if run.fidelity.split == "confirm"]
    return max(steps, default=None)


def settings(result: SearchResult) -> tuple[tuple[str, str], ...]:
    """The settings that decide most; run.yaml has them all."""
    spec, setting = result.spec, result.setting
    task, quantize = spec.task, spec.model.quantize
    workers = result.environment.get(
        "workers", spec.execution.workers or 1
    )  # older runs name the setting alone
    length = f"--epochs {task.epochs:g}" if task.epochs else ""
    length = f"--max-steps {task.max_steps}" if task.max_steps else length
    return (
        ("model", spec.model.id or f"default ({setting.base_model})"),
        *([("quantised", f"{quantize} by bitsandbytes")] if quantize != "none" else []),
        ("data", spec.data.source or f"default ({setting.data})"),
        ("task", task.name),
        ("budget", spec.budget.requested + (", head counted in" if spec.budget.count_head else "")),
        ("full run", f"{setting.full_run_steps:,} steps" + (f" ({length})" if length else "")),
        *([("batch size", str(task.batch_size))] if task.batch_size else []),
        *([("max length", f"{task.max_length} tokens")] if task.max_length else []),
        ("search space", spec.search.space),
        ("methods", ", ".join(spec.search.methods) or "all of the space"),
        ("trials", str(spec.search.trials)),
        ("score", spec.search.score),
        ("search seed", str(spec.search.seed)),
        ("confirmation", f"{_length_of_confirmation(result)}, up to {spec.confirm.seeds} seeds"),
        ("executor", f"{spec.execution.executor}, {workers} at a time"),
        *(
            (
                f"{decision.subject}, derived",
                f"{decision.value}: {decision.rule}",
            )
            for decision in setting.decisions
        ),
    )


def _length_of_confirmation(result: SearchResult) -> str:
    """The length that was confirmed; with the requested one where time was too short for that."""
    requested, used = result.spec.confirm.fidelity, result.verdict.fidelity
    return requested if used in (requested, "none") else f"{used} (time was short for {requested})"


def run_seconds(result: SearchResult, record: Confirmation) -> float:
    """Mean over the confirming runs that finished; the record's own mean if their measurements are gone."""
    runs = [
        run.train_seconds
        for run in result.measurements
        if run.plan == record.plan and run.fidelity.split == record.split and run.status is Status.COMPLETE
    ]
    return fmean(runs) if runs else record.train_seconds


def _or_last(loss: float | None) -> float:
    """A sort key that puts a missing loss and NaN last."""
    return float("inf") if loss is None or loss != loss else loss

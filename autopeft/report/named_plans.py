"""The summary table of the page: baseline, best, smallest and head alone, and what each takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from autopeft.records import FLOAT32_BYTES, Arm, Confirmation, Measurement, Plan, SearchResult, Status
from autopeft.report.measured import record_of, smallest_mark
from autopeft.report.naming import Naming
from autopeft.report.view import run_seconds

NAMED_PLANS = ("baseline", "best", "smallest")


@dataclass(frozen=True, kw_only=True)
class PlanRow:
    """One plan, with `marks` for the named plans that it is. Numbers are None where they were not measured.

    `megabytes` is the size of adapter and head as float32, `peak_bytes` the training memory beside the
    weights, `seconds` the mean time of one confirming run, and `steps` its length.
    """

    marks: tuple[str, ...]
    name: str
    plan: Plan
    test: Confirmation | None
    confirm: Confirmation | None
    megabytes: float
    peak_bytes: int | None
    seconds: float | None
    steps: int | None

    @property
    def joined_marks(self) -> str:
        """`baseline = best`."""
        return " = ".join(self.marks)


def summary(result: SearchResult, naming: Naming) -> tuple[PlanRow, ...]:
    """The named plans in the order of `NAMED_PLANS`, each once, the user's, and the head alone.

    There is no smallest plan where it was not confirmed; the user's plans are there where they were.
    """
    plans: dict[str, Plan | None] = {name: getattr(result, name) for name in NAMED_PLANS}
    if record_of(result.confirmations, result.smallest) is None and (
        result.smallest != result.best or result.verdict.label == "none"
    ):
        plans["smallest"] = None
    plans |= {arm.label: record.plan for arm, record in given_plans(result)}
    plans[naming.head] = head_plan(result)
    by_plan: dict[Plan, list[str]] = {}
    for name, plan in plans.items():
        if plan is not None:
            by_plan.setdefault(plan, []).append(smallest_mark(result) if name == "smallest" else name)
    rows = ((plan, [m for m in marks if m != naming.head] or marks) for plan, marks in by_plan.items())
    return tuple(_row(result, naming, plan, marks) for plan, marks in rows)


def head_plan(result: SearchResult) -> Plan | None:
    """The plan without adapters that was confirmed, else the best measured one; None if there is none."""
    confirmed = [record.plan for record in result.confirmations if not record.plan.adapters]
    runs = [r for r in result.measurements if not r.plan.adapters and r.status is Status.COMPLETE]
    longest = sorted(runs, key=lambda run: (-run.fidelity.train_steps, run.loss or 0.0))
    return next(iter((*confirmed, *(run.plan for run in longest))), None)


def given_plans(result: SearchResult) -> tuple[tuple[Arm, Confirmation], ...]:
    """Arm and confirmation of each confirmed plan that the user brought."""
    given = {p.plan: p.arm for p in reversed(result.proposals) if p.arm.kind == "given"}
    records = {record.plan: record for record in result.confirmations}
    return tuple((given[plan], record) for plan, record in records.items() if plan in given)


def confirmed_plans(result: SearchResult) -> tuple[Confirmation, ...]:
    """The confirmations, each plan once: in the order of `NAMED_PLANS`, then others, the head last."""
    by_plan = {record.plan: record for record in reversed(result.confirmations)}
    order = [result.baseline, result.best, result.smallest]
    rank = {plan: place for place, plan in reversed(list(enumerate(order)))}
    last = len(order)
    return tuple(sorted(by_plan.values(), key=lambda r: (not r.plan.adapters, rank.get(r.plan, last))))


def chart_names(result: SearchResult, naming: Naming) -> dict[Plan, str]:
    """What charts write beside a plan: its name, and in brackets "best" or "smallest" where it is that."""
    names, shown = {}, ("best", smallest_mark(result))
    for row in summary(result, naming):
        marks = [mark for mark in row.marks if mark in shown]
        names[row.plan] = f"{row.name} ({' and '.join(marks)})" if marks else row.name
    for record in result.confirmations:
        names.setdefault(record.plan, naming.short(record.plan))
    return names


def _row(result: SearchResult, naming: Naming, plan: Plan, marks: Sequence[str]) -> PlanRow:
    runs = _runs_of(result, plan)
    confirm = record_of(result.confirmations, plan)
    saved = plan.trainable_params + result.setting.head_params
    return PlanRow(
        marks=tuple(marks),
        name=naming.short(plan),
        plan=plan,
        test=record_of(result.test, plan),
        confirm=confirm,
        megabytes=FLOAT32_BYTES * saved / 1e6,
        peak_bytes=max((run.peak_bytes for run in runs), default=0) or None,
        seconds=(run_seconds(result, confirm) or None) if confirm else None,
        steps=next(
            (r.fidelity.train_steps for r in runs if confirm and r.fidelity.split == confirm.split), None
        ),
    )


def _runs_of(result: SearchResult, plan: Plan) -> Sequence[Measurement]:
    return [run for run in result.measurements if run.plan == plan and run.status is Status.COMPLETE]

"""What people call a plan, the group that it is drawn with, and the table of the plans with a name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from autopeft.records import (
    FLOAT32_BYTES,
    Adapter,
    Arm,
    Confirmation,
    Measurement,
    Plan,
    Proposal,
    SearchResult,
    Status,
)
from autopeft.report.measured import record_of, smallest_mark
from autopeft.report.view import run_seconds
from autopeft.report.words import HEAD_ALONE, UNTRAINED, PartWords, method_words

_MIX, _OTHERS = "mixes", "other methods"
# matplotlib's markers for the groups after the default and the head; each colour has a shape of its own.
_MARKERS = "oD^pP*X"
NAMED_PLANS = ("baseline", "best", "smallest")


def no_adapters(result: SearchResult) -> str:
    """What a plan without adapters is: the head alone, or without a head the base model as it is."""
    return HEAD_ALONE if result.setting.head_params else UNTRAINED


@dataclass(frozen=True, kw_only=True)
class Group:
    """Plans that share a colour and a marker. `colour` is the number of the page's variable `--gN`."""

    label: str
    colour: int
    marker: str


DEFAULT_GROUP = Group(label="default", colour=0, marker="s")
HEAD_GROUP = Group(label=HEAD_ALONE, colour=1, marker="v")


@dataclass(frozen=True, kw_only=True)
class Naming:
    """Names of the plans of one result: `first` maps a plan to the trial that proposed it first."""

    result: SearchResult
    words: PartWords
    first: Mapping[Plan, Proposal]

    @property
    def head(self) -> str:
        """The plan without adapters."""
        return no_adapters(self.result)

    @cached_property
    def _baselines(self) -> dict[tuple[Adapter, ...], str]:
        """The adapters of every baseline that was proposed, with the label of its arm."""
        proposals = reversed(self.result.proposals)
        return {p.plan.adapters: p.arm.label for p in proposals if p.arm.kind == "baseline"}

    def is_default(self, plan: Plan) -> bool:
        """Whether the plan is a baseline, as people write one, at whatever rate and whoever proposed it.

        The user's own config keeps its name unless it is the baseline.
        """
        proposal = self.first.get(plan)
        is_own = proposal is not None and proposal.arm.kind == "given"
        return plan == self.result.baseline or (plan.adapters in self._baselines and not is_own)

    def approach(self, plan: Plan) -> str:
        """The plan's methods in people's words: `LoRA`, `IA³ + BitFit`, `head alone`."""
        if not plan.adapters:
            return self.head
        return " + ".join(self._methods(plan))

    def _methods(self, plan: Plan) -> tuple[str, ...]:
        """The plan's methods with their unusual choices, each once."""
        return tuple(dict.fromkeys(method_words(a, self.words.labels) for a in plan.adapters))

    def short(self, plan: Plan) -> str:
        """`default LoRA` for a baseline, `your config` for the user's, else the approach.

        `searched LoRA` is one that the search laid out, where the default is a LoRA too.
        """
        if plan.adapters and self.is_default(plan):
            return f"default {self.approach(plan)}"
        proposal = self.first.get(plan)
        if proposal is not None and proposal.arm.kind == "given":
            return "your config"
        approach = self.approach(plan)
        is_other = plan.adapters and approach == self.approach(self.result.baseline)
        return f"searched {approach}" if is_other else approach

    def full(self, plan: Plan) -> str:
        """The plan's name within a sentence, with its article: `the default LoRA on q and v`, `IA³`."""
        name = self.short(plan) + self.place(plan)
        return f"the {name}" if name.startswith(("default ", "searched ", UNTRAINED, HEAD_ALONE)) else name

    def place(self, plan: Plan) -> str:
        """Where a baseline adapts, from its arm: ` on q and v`; empty for other plans."""
        label = self._baselines.get(plan.adapters, "") if self.is_default(plan) else ""
        return f" on {place}" if (place := label.partition(" on ")[2]) else ""

    def groups(self) -> dict[Plan, Group]:
        """Every measured plan with its group: default, head, other defaults, each single method, mixes.

        The groups are ordered by their number of plans; where markers run out, the rest share the last one.
        """
        plans = list(dict.fromkeys(run.plan for run in self.result.measurements))
        kinds = {plan: self._kind(plan) for plan in plans}
        counted = Counter(kind for kind in kinds.values() if kind not in (DEFAULT_GROUP.label, HEAD_ALONE))
        ordered = sorted(counted, key=lambda kind: (kind == _MIX, -counted[kind], kind))
        groups = {DEFAULT_GROUP.label: DEFAULT_GROUP, HEAD_ALONE: HEAD_GROUP}
        for number, kind in enumerate(ordered):
            place = min(number, len(_MARKERS) - 1)
            label = _OTHERS if place < number or len(ordered) > len(_MARKERS) == number + 1 else kind
            groups[kind] = Group(label=label, colour=2 + place, marker=_MARKERS[place])
        baseline = self.result.baseline
        labels = {HEAD_ALONE: self.head, DEFAULT_GROUP.label: self.short(baseline) + self.place(baseline)}
        return {
            plan: Group(
                label=labels.get(kind, groups[kind].label),
                colour=groups[kind].colour,
                marker=groups[kind].marker,
            )
            for plan, kind in kinds.items()
        }

    def _kind(self, plan: Plan) -> str:
        if not plan.adapters:
            return HEAD_ALONE
        if self.is_default(plan):
            is_other = self.place(plan) != self.place(self.result.baseline)
            return self.short(plan) + self.place(plan) if is_other else DEFAULT_GROUP.label
        return _MIX if len(self._methods(plan)) > 1 else self.short(plan)


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

"""What people call a plan, and the group of plans that it is drawn with: colour and marker."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from autopeft.records import Adapter, Plan, Proposal, SearchResult
from autopeft.report.words import HEAD_ALONE, UNTRAINED, PartWords, method_words

_MIX, _OTHERS = "mixes", "other methods"
# matplotlib's markers for the groups after the default and the head; each colour has a shape of its own.
_MARKERS = "oD^pP*X"


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

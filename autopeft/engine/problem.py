"""The problem that a search solves, fixed before its first measurement, and the runs that it plans."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain
from typing import NamedTuple, Protocol, TypeAlias, TypeVar

from autopeft.space import AllocationContext, Policy, Space, head_alone, listed_policies, plan_of
from autopeft.statistics import Examples
from autopeft.train.lengths import Lengths
from autopeft.types import Arm, Fidelity, Measurement, MetricFacts, Plan, Proposal, RunSpec

_THOROUGH_TRIALS, _THOROUGH_SEEDS = 48, 3  # of `--effort thorough`; heuristic
_FACTOR = 5  # between two budgets of `--sizes`; heuristic


@dataclass(frozen=True, kw_only=True)
class SearchProblem:
    """The user's settings, the plans to search among, and how plans are compared.

    `head_factors` are those of the head's rate next to adapters at which the baseline is trained in full, the
    usual one first: short runs cannot choose among them (research/2026-12-01-head-rate.md).
    """

    spec: RunSpec
    space: Space
    context: AllocationContext  # target modules, methods, budget and scores
    family: str  # names the list of plans that every search tries
    lengths: Lengths
    metric: MetricFacts
    has_head: bool
    head_rates: tuple[float, float] = (1.0, 1.0)  # of the task head alone
    head_factors: tuple[float, ...] = (1.0,)
    user_plan: tuple[Arm, Plan] | None = None  # to beat; it may exceed the budget
    groups: Mapping[str, Sequence[int]] = field(default_factory=dict)  # of each row of a split

    @property
    def is_thorough(self) -> bool:
        """Whether the search has `--effort thorough`."""
        return self.spec.search.effort == "thorough"

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds of every full run; short runs have the first."""
        search = self.spec.search
        n_seeds = search.seeds or (_THOROUGH_SEEDS if self.is_thorough else 1)
        return tuple(range(search.seed, search.seed + n_seeds))

    @property
    def n_trials(self) -> int:
        """The number of short runs that the settings ask for."""
        search, usual = self.spec.search, self.lengths.n_trials(len(self.listed))
        of_effort = {"quick": 0, "normal": usual, "thorough": max(usual, _THOROUGH_TRIALS)}
        return of_effort[search.effort] if search.trials is None else search.trials

    @cached_property
    def listed(self) -> tuple[tuple[Arm, Policy | None, Plan], ...]:
        """The plans that every search tries, baselines first; policy None for a plan outside of the space."""
        policies = listed_policies(self.space, self.family, self.context)
        listed = tuple((arm, policy, plan_of(policy, self.context)) for arm, policy in policies)
        if self.user_plan is None and any(arm.kind == "baseline" for arm, _ in policies):
            return listed
        arm, plan = self.user_plan or self.head
        return ((arm, None, plan), *(entry for entry in listed if entry[2] != plan))

    @property
    def head(self) -> tuple[Arm, Plan]:
        """The head alone at the middle of its rates; in a model without a head, the untrained model."""
        low, high = self.head_rates
        arm = Arm(kind="head", label="head" if self.has_head else "untrained")
        return arm, head_alone((low * high) ** 0.5 if self.has_head else 0.0)

    @property
    def baselines(self) -> list[Plan]:
        """The listed plans that the search has to beat."""
        kinds = ("baseline", "head") if self.user_plan is None else ("given",)
        return [plan for arm, _, plan in self.listed if arm.kind in kinds]

    def is_allowed(self, plan: Plan) -> bool:
        """Whether a plan is within the budget; only the user's own may exceed it."""
        return plan.trainable_params <= self.context.max_params

    @cached_property
    def sizes(self) -> tuple[SearchProblem, ...]:
        """The same problem for a fifth of the budget, for a fifth of that …, as long as a small plan fits."""
        found: list[SearchProblem] = []
        for power in range(1, self.spec.search.sizes):  # `--sizes` counts the full budget too
            context = replace(self.context, max_params=self.context.max_params // _FACTOR**power)
            small = replace(self, family="small", context=context, user_plan=None)
            if not small.small_plans:
                break
            found.append(small)
        return tuple(found)

    @property
    def small_plans(self) -> dict[Plan, Arm]:
        """The listed plans that have adapters and are not a baseline, with their arms."""
        return {plan: arm for arm, _, plan in self.listed if arm.kind == "usual" and plan.adapters}

    @property
    def sign(self) -> float:
        """Factor that turns the metric into one where larger is better."""
        return 1.0 if self.metric.greater_is_better else -1.0

    def examples(self, split: str) -> Examples:
        """The size of one row's effect on a score, and the groups of a split's rows, for paired intervals."""
        return Examples(step=self.metric.score_step, groups=self.groups.get(split, ()))

    @property
    def short(self) -> Fidelity:
        """The fidelity of all short runs: one seed, the same rows in the same order."""
        return self.lengths.short(seed=self.seeds[0])

    @property
    def full(self) -> Fidelity:
        """The fidelity of a full run with the seed of the short runs."""
        return self.lengths.full(seed=self.seeds[0])

    def full_runs(self, *, n_plans: int) -> list[Fidelity]:
        """The full runs of some finalists, after those of the baseline at other rates of the head."""
        of_heads = [self.full] * (len(self.head_factors) - 1)
        return of_heads + [self.lengths.full(seed=seed) for seed in self.seeds] * n_plans

    def test_runs(self, *, n_plans: int) -> list[Fidelity]:
        """The runs of some plans on the test split, one for each seed; empty without a test split."""
        tests = [self.lengths.test(seed=seed) for seed in self.seeds]
        return tests * n_plans if self.lengths.n_test else []

    @cached_property
    def planned(self) -> dict[str, list[Fidelity]]:
        """Phase -> its runs, as if no limit stops the search."""
        # The sampler's best plan may be one more; a thorough search adds a listed plan and the head alone.
        n_plans = 2 + (self.n_trials > len(self.listed)) + self.is_thorough * (1 + self.has_head)
        of_sizes = [[self.short] * len(small.small_plans) + [self.full] for small in self.sizes]
        return {
            "short runs": [self.short] * self.n_trials,
            "full runs": self.full_runs(n_plans=n_plans),
            "test": self.test_runs(n_plans=2),
            "smaller budgets": list(chain.from_iterable(of_sizes)),
        }


Key = tuple[Plan, Fidelity]


class Request(NamedTuple):
    """A run that a search asks for; `arm` names its plan in displays."""

    plan: Plan
    fidelity: Fidelity
    arm: Arm

    @property
    def key(self) -> Key:
        """What identifies the run."""
        return self.plan, self.fidelity


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Runs that a search asks for at once; or a `warning` for the user."""

    phase: str = ""  # of `SearchProblem.planned`
    n_runs: int = 0  # of the whole phase
    requests: Sequence[Request] = ()
    proposals: Sequence[Proposal] = ()  # the new trials of the study
    warning: str = ""


Result = TypeVar("Result")
Steps: TypeAlias = Generator[Batch, list[Measurement], Result]  # a measurement for each request, in order


class Allowance(Protocol):
    """What the limits of time and cost still allow."""

    @property
    def n_at_once(self) -> int:
        """Runs that go side by side."""

    def covers(self, requests: Sequence[Request], needed: Sequence[Fidelity] = ()) -> bool:
        """Whether the limits cover runs that are not finished yet, and what is `needed` after them."""

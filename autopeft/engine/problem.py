"""The problem that a search solves, fixed before its first measurement, and the runs that it plans."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain
from typing import NamedTuple, Protocol, TypeAlias, TypeVar

from autopeft.plugins import slow_starters
from autopeft.space import (
    BASELINE_METHOD,
    AllocationContext,
    Policy,
    Space,
    head_alone,
    listed_policies,
    plan_of,
)
from autopeft.statistics import Examples
from autopeft.train import branch_step, short_steps
from autopeft.types import Arm, EvaluatedSplit, Fidelity, Measurement, MetricFacts, Plan, Proposal, RunSpec

_SHORT_EXAMPLES = 384  # of the search split that rank short runs; heuristic
_THOROUGH_TRIALS, _THOROUGH_SEEDS = 48, 3  # of `--effort thorough`; heuristic
_FEWEST_PROPOSED, _MOST_PROPOSED = 4, 12  # trials of the sampler; research/2026-12-02-proposals.md
_FEWEST_TRIALS = 9  # also where a small budget leaves few listed plans; heuristic
# Cost of evaluating an example, relative to training on it: training adds a backward pass, which costs about
# as much as the forward pass, since most weights are frozen. It is the price until runs are timed.
EVAL_COST = 0.5
_FACTOR = 5  # between two budgets of `--sizes`; heuristic


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """Steps of a full run, examples of a step and of each split; `n_test` is 0 without a test split.

    With `goes_on` a full run continues its short run, and does not repeat these steps.
    """

    full_steps: int
    batch_size: int
    n_search: int
    n_confirm: int
    n_test: int
    goes_on: bool = True

    @property
    def short_steps(self) -> int:
        """Steps of a short run."""
        return short_steps(self.full_steps)

    @property
    def kept_steps(self) -> int:
        """Steps of a short run that its full run does not repeat."""
        return branch_step(self.short_steps) if self.goes_on else 0

    def short(self, *, seed: int) -> Fidelity:
        """The fidelity of a short run, which is ranked on the search split."""
        return self._fidelity("search", self.short_steps, min(self.n_search, _SHORT_EXAMPLES), seed)

    def full(self, *, seed: int) -> Fidelity:
        """The fidelity of a full run, which is judged on the confirm split."""
        return self._fidelity("confirm", self.full_steps, self.n_confirm, seed)

    def test(self, *, seed: int) -> Fidelity:
        """The fidelity of a full run's weights on the test split; nothing is trained."""
        return self._fidelity("test", self.full_steps, self.n_test, seed)

    def _fidelity(self, split: EvaluatedSplit, steps: int, eval_examples: int, seed: int) -> Fidelity:
        return Fidelity(
            split=split,
            train_steps=steps,
            train_examples=steps * self.batch_size,
            eval_examples=eval_examples,
            seed=seed,
        )

    def n_trials(self, n_listed: int) -> int:
        """Trials of a search of normal effort: the sampler proposes as many as cost one full run."""
        n_short_runs = round(1 / self.cost(self.short(seed=0)))
        n_proposed = min(max(n_short_runs, _FEWEST_PROPOSED), _MOST_PROPOSED)
        return max(n_listed + n_proposed, _FEWEST_TRIALS)

    @property
    def step_cost(self) -> float:
        """Cost of a training step in R."""
        return 1 / (self.full_steps + EVAL_COST * self.n_confirm / self.batch_size)

    def cost(self, fidelity: Fidelity) -> float:
        """Cost of a run in R, counted in steps and examples."""
        steps = 0 if fidelity.split == "test" else fidelity.train_steps
        return (steps + EVAL_COST * fidelity.eval_examples / self.batch_size) * self.step_cost


@dataclass(frozen=True, kw_only=True)
class SearchProblem:
    """The user's settings, the plans to search among, and how plans are compared.

    Attributes:
        space: The policies that fit model and budget.
        context: Target modules, methods, budget and scores, from which a policy becomes a plan.
        family: Name of the list of plans, such as `classification` or `small`.
        has_head: Whether the model has a task head, which is trained next to the adapters.
        head_rates: Range of learning rates of the head alone; not used without a head.
        head_factors: Factors of the head's learning rate at which the baseline is trained in full, the usual
            one first. Short runs cannot choose among them (research/2026-12-01-head-rate.md).
        user_plan: The user's own config to beat, which is the baseline then. It may exceed the budget.
        groups: Split -> the group of each evaluated example, if examples belong together.
    """

    spec: RunSpec
    space: Space
    context: AllocationContext
    family: str
    lengths: Lengths
    metric: MetricFacts
    has_head: bool
    head_rates: tuple[float, float] = (1.0, 1.0)
    head_factors: tuple[float, ...] = (1.0,)
    user_plan: tuple[Arm, Plan] | None = None
    groups: Mapping[str, Sequence[int]] = field(default_factory=dict)

    @property
    def effort(self) -> str:
        """`quick`, `normal` or `thorough`."""
        return self.spec.search.effort

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds of every full run; short runs have the first."""
        search = self.spec.search
        usual = _THOROUGH_SEEDS if self.effort == "thorough" else 1
        return tuple(range(search.seed, search.seed + (search.seeds or usual)))

    @property
    def short(self) -> Fidelity:
        """The fidelity of all short runs: one seed, the same rows in the same order."""
        return self.lengths.short(seed=self.seeds[0])

    @property
    def full(self) -> Fidelity:
        """The fidelity of a full run with the seed of the short runs."""
        return self.lengths.full(seed=self.seeds[0])

    @property
    def n_trials(self) -> int:
        """The number of short runs that the settings ask for."""
        usual = self.lengths.n_trials(len(self.listed))
        of_effort = {"quick": 0, "normal": usual, "thorough": max(usual, _THOROUGH_TRIALS)}
        return of_effort[self.effort] if self.spec.search.trials is None else self.spec.search.trials

    @cached_property
    def listed(self) -> tuple[tuple[Arm, Policy | None, Plan], ...]:
        """The plans that every search tries. Baselines come first: the user's, LoRAs, or the head alone.

        The policy is None for a plan that is not a point of the space.
        """
        policies = listed_policies(self.space, self.family, self.context)
        listed = tuple((arm, policy, plan_of(policy, self.context)) for arm, policy in policies)
        default = self.user_plan or (None if self.has_lora else self.head)
        if default is None:
            return listed
        arm, plan = default
        return ((arm, None, plan), *(entry for entry in listed if entry[2] != plan))

    @property
    def head(self) -> tuple[Arm, Plan]:
        """The head alone at the middle of its rates; in a model without a head, the untrained model."""
        low, high = self.head_rates
        arm = Arm(kind="head", label="head" if self.has_head else "untrained")
        return arm, head_alone((low * high) ** 0.5 if self.has_head else 0.0)

    @property
    def has_lora(self) -> bool:
        """Whether the budget has room for LoRA of rank 1 at some target module."""
        lora, context = self.context.methods[BASELINE_METHOD], self.context
        fitting = (target for target in context.targets if lora.refusal(target) is None)
        return any(lora.cost(target, 1, {}) <= context.max_params for target in fitting)

    def is_baseline(self, arm: Arm) -> bool:
        """Whether an arm is a baseline, which the search has to beat."""
        if self.user_plan is not None:
            return arm.kind == "given"
        return arm.kind == ("baseline" if self.has_lora else "head")

    def is_allowed(self, plan: Plan) -> bool:
        """Whether a plan is within the budget; only the user's own may exceed it."""
        return plan.trainable_params <= self.context.max_params

    def starts_slowly(self, plan: Plan) -> bool:
        """Whether short runs judge a plan too low, since its main method starts slowly."""
        return plan.lead_method in slow_starters(self.context.methods)

    @cached_property
    def sizes(self) -> tuple[SearchProblem, ...]:
        """The same problem for a fifth of the budget, for a fifth of that …, as long as a small plan fits.

        `--sizes` counts the full budget too, so that `--sizes 3` asks for two smaller ones.
        """
        found: list[SearchProblem] = []
        for power in range(1, self.spec.search.sizes):
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
    def budget_words(self) -> str:
        """The budget as text: `7,500 parameters`."""
        return f"{self.context.max_params:,} parameters"

    @property
    def sign(self) -> float:
        """Factor that turns the metric into one where larger is better."""
        return 1.0 if self.metric.greater_is_better else -1.0

    def examples(self, split: str) -> Examples:
        """The size of one row's effect on a score, and the groups of a split's rows, for paired intervals."""
        return Examples(step=self.metric.score_step, groups=self.groups.get(split, ()))

    def test_runs(self, *, n_plans: int) -> list[Fidelity]:
        """The runs of `n_plans` on the test split, one for each seed; empty without a test split."""
        tests = [self.lengths.test(seed=seed) for seed in self.seeds]
        return tests * n_plans if self.lengths.n_test else []

    def final_runs(self, *, n_plans: int) -> list[Fidelity]:
        """The runs of `n_plans` finalists: one in full for each seed, after those that choose the head's rate."""
        of_heads = [self.full] * (len(self.head_factors) - 1)
        return of_heads + [self.lengths.full(seed=seed) for seed in self.seeds] * n_plans

    @cached_property
    def planned(self) -> dict[str, list[Fidelity]]:
        """Phase -> its runs, as if no limit stops the search."""
        # The best plan of the sampler may be one more; a thorough search adds a listed plan and the head alone.
        n_plans = 2 + (self.n_trials > len(self.listed))
        n_plans += 1 + self.has_head if self.effort == "thorough" else 0
        phases = {
            "short runs": [self.short] * self.n_trials,
            "full runs": self.final_runs(n_plans=n_plans),
            "test": self.test_runs(n_plans=2),
        }
        for small in self.sizes:
            phases[f"short runs, {small.budget_words}"] = [self.short] * len(small.small_plans)
            phases[f"full run, {small.budget_words}"] = [self.full]
        return phases


def planned_runs(problem: SearchProblem) -> list[Fidelity]:
    """List the runs of a search, as if no limit stops it."""
    return list(chain.from_iterable(problem.planned.values()))


def repeated_steps(problem: SearchProblem) -> int:
    """Count the steps of planned full runs that short runs, which have the first seed alone, have done."""
    from_scratch = len(problem.head_factors) - 1 + (problem.effort == "thorough" and problem.has_head)
    n_continued = problem.planned["full runs"].count(problem.full) - from_scratch
    n_begun = min(problem.n_trials, n_continued) + len(problem.sizes)
    return n_begun * problem.lengths.kept_steps


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
    """Runs that a search asks for at once, in one of its phases; or a `warning` for the user.

    `phase` is one of `SearchProblem.planned`, and `n_runs` counts its runs. `proposals` are the new trials of
    the study.
    """

    phase: str = ""
    n_runs: int = 0
    requests: Sequence[Request] = ()
    proposals: Sequence[Proposal] = ()
    warning: str = ""


Result = TypeVar("Result")
Steps: TypeAlias = Generator[Batch, list[Measurement], Result]  # a measurement for each request, in order


class Allowance(Protocol):
    """What the limits of time and cost still allow."""

    @property
    def n_at_once(self) -> int:
        """Runs that go side by side."""

    def covers(self, requests: Sequence[Request], needed: Sequence[Fidelity] = ()) -> bool:
        """Whether the limits cover some runs and what is `needed` after them.

        Runs that an earlier process finished take no time again: they are always covered.
        """

"""What a search is given, fixed before its first measurement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import geometric_mean

from autopeft import evidence
from autopeft.engine.schedule import Schedule
from autopeft.extension import slow_starters
from autopeft.records import Arm, Fidelity, MetricFacts, Plan, RunSpec
from autopeft.space import (
    BASELINE_METHOD,
    AllocationContext,
    MethodSpace,
    Policy,
    Space,
    learning_rates,
    scored_policy,
)

_LEAST_SEEDS = 2  # of two plans that are compared
LEAST_WAVE = 4  # plans that are proposed at once, however few workers there are; chosen by hand


@dataclass(frozen=True, kw_only=True)
class SearchProblem:
    """The user's settings, the policies and plans to search among, and how plans are compared.

    Attributes:
        space: The policies that fit model and budget.
        context: Sites, methods, budget and scores, from which a policy becomes a plan.
        head_rates: Range of learning rates of the head alone; its ends are equal where the model has no head.
        user_plans: Plans that the user brought, by arm. Each is measured at several learning rates (around
            its own, where that is above 0), and can win only if it keeps to the budget.
        wave: Plans that are proposed and measured between two looks at losses, time and cost. Fixed for a
            run, so that no outcome depends on which worker was faster.
        margin: Difference that does not matter, in units of the metric.
        groups: Split -> the group of each evaluated example, where examples belong together.
    """

    spec: RunSpec
    space: Space
    context: AllocationContext
    schedule: Schedule
    metric: MetricFacts
    head_rates: tuple[float, float]
    user_plans: tuple[tuple[Arm, Plan], ...] = ()
    wave: int = LEAST_WAVE
    margin: float = 0.01
    groups: Mapping[str, Sequence[int]] = field(default_factory=dict)

    @property
    def seed(self) -> int:
        """Seed of every rung; confirmations take the seeds after it."""
        return self.spec.search.seed

    @property
    def sign(self) -> float:
        """Factor that turns the metric into one where larger is better."""
        return 1.0 if self.metric.greater_is_better else -1.0

    def examples(self, split: str) -> evidence.Examples:
        """What is known of the examples of a split beside their scores."""
        return evidence.Examples(step=self.metric.score_step, groups=self.groups.get(split, ()))

    @property
    def max_rank(self) -> int | None:
        """Cap on the ranks of LoRA: that of the space, which keeps to the user's limit too, or the limit."""
        part = self.space.methods.get(BASELINE_METHOD)
        return self.spec.limits.max_rank if part is None else part.max_rank

    @property
    def in_scored_layers(self) -> Policy | None:
        """LoRA in the layers of the highest score, where these differ from the baseline's; else None."""
        if BASELINE_METHOD not in self.space.methods:
            return None
        return scored_policy(self.context, learning_rate=1.0, max_rank=self.max_rank)

    @property
    def without_adapters(self) -> Arm:
        """The arm of plans without adapters: the head alone, or the base model untrained.

        The head alone is trained on what the base model gives in evaluation, without the dropout inside it.
        """
        return Arm(kind="head", label="head" if self.has_head else "untrained")

    @property
    def has_head(self) -> bool:
        """Whether the model has a task head, which is trained beside the adapters."""
        return self.head_rates[0] < self.head_rates[1]

    @property
    def slow_methods(self) -> frozenset[str]:
        """Methods that short runs judge too low."""
        return slow_starters(self.context.methods)

    def starts_slowly(self, plan: Plan) -> bool:
        """Whether short runs judge a plan too low, and full ones are long enough to make up for it."""
        return plan.lead_method in self.slow_methods and not self.schedule.is_brief

    @property
    def has_baseline(self) -> bool:
        """Whether LoRA fits the budget at all; where it does not, the head alone is the baseline."""
        lora, context = self.context.methods[BASELINE_METHOD], self.context
        fitting = (site for site in context.sites if lora.refusal(site) is None)
        return any(lora.cost(site, 1, {}) <= context.max_params for site in fitting)

    def is_baseline(self, arm: Arm) -> bool:
        """Whether an arm is one of the baselines."""
        return arm.kind == "baseline" or (arm.kind == "head" and not self.has_baseline)

    @property
    def confirm_reserve(self) -> float:
        """Cost in R that the search leaves to the confirmation of two plans."""
        confirm = self.spec.confirm
        return 0.0 if confirm.fidelity == "none" else self.schedule.confirm_cost(n_seeds=confirm.seeds)

    @property
    def least_seeds(self) -> int:
        """Confirming seeds without which two plans are not compared."""
        return min(_LEAST_SEEDS, self.spec.confirm.seeds)

    def least_seeds_of(self, plans: Sequence[Plan]) -> int:
        """Confirming seeds without which there is no verdict: one of a plan alone."""
        return self.least_seeds if len(plans) > 1 else 1

    def rung(self, index: int) -> Fidelity:
        """The fidelity of a rung, from 0."""
        return self.schedule.rung(index, seed=self.seed)

    @property
    def full_rung(self) -> Fidelity:
        """A full run that the search split judges, and that goes on from the rungs."""
        return self.schedule.full_rung(seed=self.seed)

    def confirmation(self, index: int) -> Fidelity:
        """The fidelity of the n-th confirming run, from 0; the search uses none of these seeds."""
        return self.schedule.fidelity("confirm", seed=self.seed + 1 + index)

    @property
    def at_half_length(self) -> SearchProblem:
        """The problem with confirming runs of half a full run, as `--confirm half` has them."""
        confirm = self.spec.confirm.model_copy(update={"fidelity": "half"})
        half = max(1, round(self.schedule.full_steps / 2))
        steps = min(half, self.schedule.confirm_steps)
        return replace(
            self,
            spec=self.spec.model_copy(update={"confirm": confirm}),
            schedule=replace(self.schedule, confirm_steps=steps),
        )

    @property
    def rate_ranges(self) -> dict[str, tuple[float, float]]:
        """Learning rates that may be tried with each method, and under the empty name with the head alone."""
        methods = self.context.methods
        return {"": self.head_rates, **{name: learning_rates(self.space, name, methods) for name in methods}}

    def rate_range(self, plan: Plan, arm: Arm) -> tuple[float, float]:
        """Learning rates that may be tried with a plan of an arm.

        The range of the method or the mix that the plan was made from; for a plan of neither that of its
        first method, or of the head. That of a plan with other scales, which a user's may have, is divided by
        how much larger these are: rate times scale is what compares.
        """
        name = self._name_in_space(plan, arm)
        if name is not None:
            return learning_rates(self.space, name, self.context.methods)
        low, high = self.rate_ranges[plan.lead_method or ""]
        scaled = [a for a in plan.adapters if a.method == plan.lead_method and a.scale > 0]
        methods = self.context.methods
        ratios = [adapter.scale / methods[adapter.method].scale(adapter.rank) for adapter in scaled]
        ratio = geometric_mean(ratios) if ratios else 1.0
        return low / ratio, high / ratio

    def has_set_rates(self, plan: Plan, arm: Arm) -> bool:
        """Whether the search space itself sets the learning rates of a plan of an arm."""
        parts = self._parts(plan, arm)
        return bool(parts) and parts[0][1].learning_rate is not None

    def _parts(self, plan: Plan, arm: Arm) -> tuple[tuple[str, MethodSpace], ...]:
        """Method and choices of each part of what a plan was made from, else of the plan's own methods."""
        name = self._name_in_space(plan, arm)
        if name is not None:
            return self.space.parts(name)
        plan_methods = sorted(
            {adapter.method for adapter in plan.adapters}, key=lambda name: name != plan.lead_method
        )
        return tuple((name, self.space.methods[name]) for name in plan_methods if name in self.space.methods)

    def _name_in_space(self, plan: Plan, arm: Arm) -> str | None:
        """The space's name of the method or mix that a plan was made from; None for a plan of neither.

        Of several mixes of the same methods, the first whose learning rates have that of the plan.
        """
        methods = {name: tuple(method for method, _ in self.space.parts(name)) for name in self.space.arms}
        fitting = [name for name in methods if methods[name] == arm.methods]
        ranges = {name: learning_rates(self.space, name, self.context.methods) for name in fitting}
        having = [name for name, (low, high) in ranges.items() if low <= plan.learning_rate <= high]
        return next(iter([*having, *fitting]), None)

"""A search without a model: a fake measure knows the truth, everything else is real."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any

from optuna.storages import BaseStorage, InMemoryStorage

from autopeft import engine
from autopeft.engine import Ledger, Schedule, SearchProblem
from autopeft.engine.queue import central
from autopeft.executors import Serial
from autopeft.extension import discover
from autopeft.records import (
    Arm,
    ConfirmSpec,
    Fidelity,
    LimitSpec,
    Measurement,
    MetricFacts,
    Outcome,
    Plan,
    RunSpec,
    SearchSpec,
    Site,
    Status,
)
from autopeft.space import AllocationContext, MethodSpace, Space, baseline_policies, plan_of
from toys.metrics import ACCURACY

METHODS = discover("autopeft.methods")
SITES = tuple(
    Site(
        name=f"h.{layer}.{role}",
        layer=layer,
        role=role,
        kind="linear",
        in_features=8,
        out_features=n_out,
        has_bias=True,
    )
    for layer in range(2)
    for role, n_out in (("q", 8), ("v", 8), ("up", 16))
)
# Rank 1 of LoRA costs 16, 16 and 24: 112 everywhere, 64 at q and v. IA3 costs 8, 8 and 16.
ROOMY, TIGHT, NO_LORA = 300, 100, 15
SCORES = {site.name: 1.0 + index for index, site in enumerate(SITES)}
SPACE = Space(
    about="toy",
    methods={
        "lora": MethodSpace(placement=("all", "q+v", "mlp"), exponent=(0.0, 2.0)),
        "ia3": MethodSpace(placement=("all", "q+v"), layer_share=(0.5, 1.0)),
    },
)
Quality = Callable[[Plan, Fidelity], float | None]


def context(max_params: int) -> AllocationContext:
    return AllocationContext(sites=SITES, scores=SCORES, methods=METHODS, max_params=max_params)


def baseline_plans(max_params: int = ROOMY, *, n_rates: int = 2) -> list[Plan]:
    """The baselines at each of some learning rates: two in searches of fewer than 24 trials, else three."""
    low, high = METHODS["lora"].learning_rate_range
    rates, allocation = central(low, high, n_rates), context(max_params)
    policies = baseline_policies(allocation, learning_rate=1.0).values()
    return [plan_of(replace(policy, learning_rate=rate), allocation) for policy in policies for rate in rates]


def is_baseline(plan: Plan) -> bool:
    """Whether a plan is a baseline at whichever learning rate."""
    return plan.adapters in [baseline.adapters for baseline in baseline_plans()]


def method_of(plan: Plan) -> str:
    return plan.adapters[0].method if plan.adapters else "head"


def levels(*, head: float = 0.3, lora: float = 0.5, ia3: float = 0.7) -> Quality:
    """A truth: each method has its level, and a tenfold wrong learning rate costs 0.02."""

    def quality(plan: Plan, fidelity: Fidelity) -> float:
        level = {"head": head, "lora": lora, "ia3": ia3}[method_of(plan)]
        return level - 0.02 * abs(math.log10(plan.learning_rate) + 2)

    return quality


@dataclass(kw_only=True)
class World:
    """Measures: `quality` is the share of examples that a plan gets right, None where it fails.

    The loss is 2 - quality + 1 / steps. A step takes a second of the world's own clock, an evaluated
    example and the rest of a run take what is set. Without a head, a plan without adapters has no steps.
    """

    quality: Quality
    error: str = "The loss diverged at step 3"
    failure: Status = Status.DIVERGED
    counts_errors: bool = False
    has_head: bool = True
    example_seconds: float = 0.0
    overhead_seconds: float = 0.0
    calls: list[tuple[Plan, Fidelity]] = field(default_factory=list)
    seconds: float = 0.0

    def measure(self, plan: Plan, fidelity: Fidelity) -> Measurement:
        self.calls.append((plan, fidelity))
        quality, n = self.quality(plan, fidelity), fidelity.eval_examples
        is_trained = fidelity.split != "test" and (self.has_head or bool(plan.adapters))
        seconds = float(fidelity.train_steps) if is_trained else 0.0
        self.seconds += seconds + self.example_seconds * n + self.overhead_seconds
        common: dict[str, Any] = {
            "plan": plan,
            "fidelity": fidelity,
            "train_seconds": seconds,
            "trained_steps": int(seconds),
            "eval_seconds": self.example_seconds * n,
            "overhead_seconds": self.overhead_seconds,
        }
        if quality is None:
            return Measurement(status=self.failure, error=self.error, **common)
        scores = tuple(float((i < round(quality * n)) != self.counts_errors) for i in range(n))
        loss = 2 - quality + 1 / fidelity.train_steps
        metric = sum(scores) / n
        return Measurement(status=Status.COMPLETE, metric=metric, loss=loss, example_scores=scores, **common)


@dataclass
class Display:
    """A display that remembers."""

    phases: dict[str, int] = field(default_factory=dict)
    shown: list[tuple[Measurement, str]] = field(default_factory=list)
    baselines: list[str] = field(default_factory=list)  # arms that were shown as one

    def phase(self, name: str, n_measurements: int) -> None:
        self.phases[name] = n_measurements

    def measured(
        self, measurement: Measurement, *, arm: str, is_baseline: bool, seconds_left: float | None
    ) -> None:
        self.shown.append((measurement, arm))
        self.baselines += [arm] * is_baseline


class Backwards:
    """An executor that starts nothing before it is waited for, and then the last first."""

    name = "backwards"
    n_workers = 1

    def __init__(self) -> None:
        self.waiting: list[tuple[Future[Any], Callable[..., Any], tuple[Any, ...]]] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any) -> Future[Any]:
        owner = self

        class Late(Future[Any]):
            def result(self, timeout: float | None = None) -> Any:
                while owner.waiting:
                    future, waiting_fn, waiting_args = owner.waiting.pop()
                    future.set_result(waiting_fn(*waiting_args))
                return super().result(timeout)

        future = Late()
        self.waiting.append((future, fn, args))
        return future

    def shutdown(self) -> None:
        self.waiting.clear()


class Counting(Backwards):
    """Notes how many measurements are under way whenever another begins."""

    def __init__(self) -> None:
        super().__init__()
        self.under_way: list[int] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any) -> Future[Any]:
        future = super().submit(fn, *args)
        self.under_way.append(len(self.waiting))
        return future


def problem(
    *,
    max_params: int = ROOMY,
    space: Space = SPACE,
    confirm: str = "full",
    seeds: int = 2,
    n_confirm: int = 40,
    n_test: int = 20,
    metric: MetricFacts = ACCURACY,
    user_plans: tuple[tuple[Arm, Plan], ...] = (),
    limits: LimitSpec = LimitSpec(),  # noqa: B008, frozen
    rung_steps: tuple[int, ...] = (3, 12),
    full_steps: int = 30,
    confirm_steps: int | None = None,
    margin: float | None = None,
    head_rates: tuple[float, float] = (3e-3, 3e-1),
    wave: int = 4,
    groups: Mapping[str, Sequence[int]] | None = None,
    **search: Any,
) -> SearchProblem:
    """Rungs of 3 and 12 steps, full runs of 30 and confirming ones as long, on the toy sites."""
    return SearchProblem(
        head_rates=head_rates,
        spec=RunSpec(
            search=SearchSpec(**{"trials": 16, "sampler": "tpe", **search}),
            limits=limits,
            confirm=ConfirmSpec(fidelity=confirm, seeds=seeds, margin=margin),
        ),
        user_plans=user_plans,
        wave=wave,
        space=space,
        context=context(max_params),
        schedule=Schedule(
            rung_steps=rung_steps,
            full_steps=full_steps,
            confirm_steps=confirm_steps or full_steps,
            batch_size=4,
            n_search=100,
            n_confirm=n_confirm,
            n_test=n_test,
        ),
        metric=metric,
        groups=groups or {},
    )


@dataclass
class Run:
    """One search and all that it left."""

    outcome: Outcome
    world: World
    display: Display
    records: list[Measurement]

    def at(self, split: str, steps: int | None = None) -> list[Measurement]:
        """The measurements on a split, of so many steps."""
        kept = [m for m in self.outcome.measurements if m.fidelity.split == split]
        return [m for m in kept if steps in (None, m.fidelity.train_steps)]


def run(
    world: World | Quality,
    *,
    executor: Any = None,
    storage: BaseStorage | None = None,
    limit_seconds: float | None = None,
    known: Mapping[tuple[Plan, Fidelity], Measurement] | None = None,
    display: Display | None = None,
    **settings: Any,
) -> Run:
    """Search in a world, or in one with that truth; `settings` are those of `problem`."""
    world = world if isinstance(world, World) else World(quality=world)
    display, records = display or Display(), []
    ledger = Ledger(
        executor=executor or Serial(),
        measure=world.measure,
        progress=display,
        known=known or {},
        record=records.append,
        clock=lambda: world.seconds,
        limit_seconds=limit_seconds,
    )
    outcome = engine.search(problem(**settings), ledger, storage=lambda: storage or InMemoryStorage())
    return Run(outcome, world, display, records)

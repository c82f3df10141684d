"""A search without a model: a fake measure knows the truth, everything else is real."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.storages import BaseStorage

from autopeft import engine
from autopeft.engine import STUDY, Driver, Key, SearchProblem
from autopeft.executors import Serial
from autopeft.plugins import discover
from autopeft.space import AllocationContext, ListedPlan, MethodSpace, Space, feasible, load
from autopeft.train import branch_step
from autopeft.train.lengths import Lengths
from autopeft.types import (
    Arm,
    Fidelity,
    FullRun,
    Measurement,
    MetricFacts,
    Outcome,
    Plan,
    RunSpec,
    SearchSpec,
    Status,
    Target,
)
from toys.metrics import ACCURACY

optuna.logging.set_verbosity(optuna.logging.ERROR)
METHODS = discover("autopeft.methods")
TARGETS = tuple(
    Target(
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
# Rank 1 of LoRA and of HiRA costs 16, 16 and 24: 112 everywhere, 64 at q and v. IA3 costs 8, 8 and 16: 64.
ROOMY, TIGHT, NO_LORA = 300, 100, 15
STEP_SECONDS = 2.0
SCORES = {target.name: 1.0 + index for index, target in enumerate(TARGETS)}
LIST = (
    ListedPlan(method="lora", placement="q+v", rate=0.4, baseline=True),
    ListedPlan(method="lora", rate=0.4, baseline=True),
    ListedPlan(method="ia3", rate=0.5),
    ListedPlan(method="hira", rate=0.5),  # a slow starter
)
SPACE = Space(
    about="toy",
    methods={
        "lora": MethodSpace(placement=("all", "q+v", "mlp"), layer_share=(0.5, 1.0)),
        "ia3": MethodSpace(placement=("all", "q+v"), layer_share=(0.5, 1.0)),
        "hira": MethodSpace(),
    },
    listed={"classification": LIST, "small": load("default", known_methods=METHODS).listed["small"]},
)
# A truth: the share of examples that a plan gets right, or how its run ends.
Truth = Callable[[Plan, Fidelity], float | Status]


def context(max_params: int) -> AllocationContext:
    return AllocationContext(targets=TARGETS, scores=SCORES, methods=METHODS, max_params=max_params)


def kind_of(plan: Plan) -> str:
    """The method, `head` without adapters, `q+v` for LoRA at q and v alone."""
    roles = {adapter.target.rpartition(".")[2] for adapter in plan.adapters}
    method = plan.lead_method or "head"
    return "q+v" if method == "lora" and roles == {"q", "v"} else method


def levels(in_full: Mapping[str, float | Status] | None = None, **shares: float | Status) -> Truth:
    """A truth by the kind of a plan; `in_full` has what full runs have instead."""
    usual = {"head": 0.3, "lora": 0.5, "q+v": 0.6, "ia3": 0.7, "hira": 0.4, **shares}

    def truth(plan: Plan, fidelity: Fidelity) -> float | Status:
        more = in_full if in_full and fidelity.split != "search" else {}
        kind = kind_of(plan)
        return more.get(kind, usual[kind])

    return truth


@dataclass(kw_only=True)
class World:
    """Measures by a truth; examples are right in order, so that plans differ on as few as they can.

    Without `greater_is_better` the scores count errors. The loss is 2 - quality + 1 / steps. A step takes two
    seconds of the world's own clock, an evaluated example and the rest of a run take what is set. With
    `goes_on` a full run goes on from the branch of its short run.
    """

    truth: Truth
    greater_is_better: bool = True
    example_seconds: float = 0.0
    overhead_seconds: float = 0.0
    goes_on: bool = False
    first_waits: bool = False  # for others to overtake it
    calls: list[Key] = field(default_factory=list)
    seconds: float = 0.0

    def measure(self, plan: Plan, fidelity: Fidelity) -> Measurement:
        self.calls.append((plan, fidelity))
        if self.first_waits and kind_of(plan) == "q+v":
            time.sleep(0.02)
        quality, n = self.truth(plan, fidelity), fidelity.eval_examples
        n_steps = 0 if fidelity.split == "test" else fidelity.train_steps
        if self.goes_on and fidelity.split == "confirm":
            done = [at.train_steps for of, at in self.calls if of == plan and at.seed == fidelity.seed]
            n_steps -= branch_step(min(done)) if min(done) < n_steps else 0
        taken: dict[str, Any] = {
            "train_seconds": STEP_SECONDS * n_steps,
            "trained_steps": n_steps,
            "eval_seconds": self.example_seconds * n,
            "overhead_seconds": self.overhead_seconds,
        }
        self.seconds += math.fsum(taken[name] for name in taken if name != "trained_steps")
        if isinstance(quality, Status):
            return Measurement(plan=plan, fidelity=fidelity, status=quality, error="It broke.", **taken)
        scores = tuple(float((i < round(quality * n)) == self.greater_is_better) for i in range(n))
        return Measurement(
            plan=plan,
            fidelity=fidelity,
            status=Status.COMPLETE,
            metric=sum(scores) / n,
            loss=2 - quality + 1 / fidelity.train_steps,
            example_scores=scores,
            **taken,
        )


@dataclass
class Display:
    """A display that remembers."""

    phases: list[tuple[str, int]] = field(default_factory=list)
    shown: list[Measurement] = field(default_factory=list)
    left: list[float | None] = field(default_factory=list)  # seconds, after each measurement
    left_at: dict[str, float | None] = field(default_factory=dict)  # the same, where a phase begins

    def phase(self, name: str, n_measurements: int, *, seconds_left: float | None = None) -> None:
        self.phases.append((name, n_measurements))
        self.left_at[name] = seconds_left

    def measured(self, measurement: Measurement, *, arm: str, seconds_left: float | None) -> None:
        self.shown.append(measurement)
        self.left.append(seconds_left)

    def waiting(self) -> None:
        pass


class Threads(ThreadPoolExecutor):
    """Three measurements side by side, which end in any order."""

    n_workers = 3

    def __init__(self) -> None:
        super().__init__(self.n_workers)


def problem(
    *,
    max_params: int = ROOMY,
    space: Space = SPACE,
    full_steps: int = 200,
    batch_size: int = 4,
    n_examples: tuple[int, int, int] = (100, 100, 50),
    metric: MetricFacts = ACCURACY,
    has_head: bool = True,
    head_factors: tuple[float, ...] = (1.0,),
    user_plan: tuple[Arm, Plan] | None = None,
    groups: Mapping[str, Sequence[int]] | None = None,
    **search: Any,
) -> SearchProblem:
    """Short runs of 75 steps and full runs of 200, on toy targets; `search` are settings of the search."""
    n_search, n_confirm, n_test = n_examples
    return SearchProblem(
        spec=RunSpec(search=SearchSpec(**search)),
        space=feasible(space, context(max_params)),
        context=context(max_params),
        family="classification",
        lengths=Lengths(
            full_steps=full_steps,
            batch_size=batch_size,
            n_search=n_search,
            n_confirm=n_confirm,
            n_test=n_test,
        ),
        metric=metric,
        has_head=has_head,
        head_rates=(3e-3, 3e-1),
        head_factors=head_factors,
        user_plan=user_plan,
        groups=groups or {},
    )


@dataclass
class Run:
    """One search and all that it left."""

    problem: SearchProblem
    outcome: Outcome
    world: World
    display: Display
    records: list[Measurement]

    def at(self, split: str) -> list[Measurement]:
        """The measurements on a split."""
        return [m for m in self.outcome.measurements if m.fidelity.split == split]

    def kinds(self, split: str) -> Counter[str]:
        """How many measurements there are on a split of each kind of plan."""
        return Counter(kind_of(m.plan) for m in self.at(split))

    def named(self, name: str) -> FullRun:
        """The full run of that name."""
        (found,) = [run for run in self.outcome.full_runs if run.name == name]
        return found


def run(
    world: World | Truth,
    *,
    executor: Any = None,
    storage: BaseStorage | None = None,
    known: Collection[Measurement] = (),
    records: list[Measurement] | None = None,
    max_seconds: float = float("inf"),
    max_cost: float = float("inf"),
    **settings: Any,
) -> Run:
    """Search in a world, or in one with that truth; `settings` are those of `problem`."""
    world = world if isinstance(world, World) else World(truth=world)
    display, records, asked = Display(), [] if records is None else records, problem(**settings)
    driver = Driver(
        executor=executor or Serial(),
        measure_one=world.measure,
        progress=display,
        problem=asked,
        earlier={(m.plan, m.fidelity): m for m in known},
        record=records.append,
        clock=lambda: world.seconds,
        max_seconds=max_seconds,
        max_cost=max_cost,
    )
    study = optuna.create_study(storage=storage, study_name=STUDY)
    outcome = driver.run(engine.search(asked, study, driver))
    return Run(asked, outcome, world, display, records)

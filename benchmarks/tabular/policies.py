"""What finds a plan in a cell: a search under some settings, or a simple rule without the engine."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import optuna
import yaml
from cells import POSITIONS
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import BaseTrial
from pydantic import ValidationError
from surrogate import Surrogate, TableBench
from table import TableError

from autopeft import engine, space
from autopeft.engine import Driver, SearchProblem
from autopeft.executors import EXECUTORS
from autopeft.plugins import discover
from autopeft.report.progress import Lines
from autopeft.setup.build import Prepared
from autopeft.setup.feasible import requested_space
from autopeft.setup.opening import OpenedRun
from autopeft.setup.search_problem import search_problem
from autopeft.space import AllocationContext, MethodSpace, Space, parameters, plan_of, policy_of_parameters
from autopeft.store.study_file import errors_alone
from autopeft.train.lengths import Lengths
from autopeft.types import SHORT_NAMES, Measurement, Plan, RunSpec, TargetScores

BASELINES = ("lora/all", "lora/q+v")
_MIDDLE = (0.38,)  # where the search tries its baselines


@dataclass(frozen=True, kw_only=True)
class Found:
    """The plan that a policy hands over, trained in full, with the bench that measured for it."""

    plan: Plan
    bench: TableBench
    verdict: str = ""


Finder = Callable[[Surrogate, int], Found]  # of a cell, with a seed; a policy of the benchmark
Named = tuple[str, float]  # arm and position of a measured plan


def searched(settings: Mapping[str, Any]) -> Finder:
    """The search of autopeft under settings by their short names, such as `trials`.

    Raises:
        TableError: No such setting, or not such a value.
    """
    topics: dict[str, dict[str, Any]] = {}
    for short, value in settings.items():
        if short not in SHORT_NAMES:
            raise TableError(f"There is no setting {short!r}; the settings are {', '.join(SHORT_NAMES)}.")
        topic, _, name = SHORT_NAMES[short].name.partition(".")
        topics.setdefault(topic, {})[name] = value
    try:
        RunSpec.model_validate(topics)
    except ValidationError as error:
        fault = error.errors()[0]
        raise TableError(f"The setting {'.'.join(map(str, fault['loc']))}: {fault['msg']}.") from error

    def find(surrogate: Surrogate, seed: int) -> Found:
        budget = {"requested": surrogate.description.budget.requested}
        search = {**topics.get("search", {}), "seed": seed}
        spec = RunSpec.model_validate({**topics, "budget": budget, "search": search})
        problem, bench = problem_of(surrogate, spec), TableBench(surrogate, seed=seed)
        driver = Driver(
            executor=EXECUTORS["serial"],
            measure_one=bench.measure,
            progress=Lines(),
            problem=problem,
            clock=lambda: bench.seconds,
            max_seconds=spec.search.max_time_seconds or math.inf,
            max_cost=spec.search.max_cost or math.inf,
        )
        with errors_alone("autopeft", "optuna"):
            study = optuna.create_study(study_name=engine.STUDY)
            outcome = driver.run(engine.search(problem, study, driver))
        return Found(plan=outcome.best, bench=bench, verdict=outcome.verdict.label)

    return find


def proposed(trial: BaseTrial, problem: SearchProblem) -> Plan:
    """Draw all parameters of a trial from its sampler, and make a plan of them."""
    drawn: dict[str, Any] = {}
    for name, distribution in parameters(problem.space).items():
        if isinstance(distribution, CategoricalDistribution):
            drawn[name] = trial.suggest_categorical(name, distribution.choices)
        else:
            assert isinstance(distribution, FloatDistribution)
            drawn[name] = trial.suggest_float(name, distribution.low, distribution.high)
    methods = problem.context.methods
    return plan_of(policy_of_parameters(drawn, problem.space, methods), problem.context)


def problem_of(surrogate: Surrogate, spec: RunSpec) -> SearchProblem:
    """The problem that `autopeft search` would give to the engine in the surrogate's cell.

    Methods and mixes whose first method no measured arm has are left out of the space.

    Raises:
        TableError: No method is left, or target modules are to be ordered by a score that the description
            lacks.
    """
    description = surrogate.description
    methods = discover("autopeft.methods").changed(lambda method: method.at_width(description.hidden_size))
    names = [target.name for target in description.targets]
    if spec.search.score not in description.scores:
        raise TableError(f"The score is {spec.search.score}; cell.json has {', '.join(description.scores)}.")
    context = AllocationContext(
        targets=description.targets,
        scores=dict.fromkeys(names, 1.0),
        methods=methods,
        max_params=description.budget.max_trainable_params,
    )
    requested = requested_space(spec)
    measured = {adapter.method for arm in surrogate.arms.values() for adapter in arm.adapters}
    known_arms = [arm for arm in requested.arms if requested.parts(arm)[0][0] in measured]
    if not known_arms:
        raise TableError(
            f"Cell {surrogate.results.name} has arms of {', '.join(sorted(measured))} and none of "
            f"{', '.join(requested.arms)}; ask for others."
        )
    feasible = space.feasible(requested.only(known_arms), context)
    opened = OpenedRun(
        prepared=_stand_in(surrogate, spec),
        requested=requested,
        feasible=within_tables(feasible),
        context=context,
        user_plan=None,
    )
    return search_problem(
        opened,
        [TargetScores(name=name, values=values) for name, values in description.scores.items()],
    )


def within_tables(space_of_search: Space) -> Space:
    """Leave out what no measured plan has: a slower head, and single modules."""

    def narrow(_: str, part: MethodSpace) -> MethodSpace:
        select = tuple(value for value in part.select if value != "best_modules")
        return part.model_copy(update={"select": select})

    lists = {
        family: tuple(entry for entry in entries if entry.select != "best_modules")
        for family, entries in space_of_search.listed.items()
    }
    return space_of_search.narrowed(narrow).model_copy(update={"listed": lists})


def _stand_in(surrogate: Surrogate, spec: RunSpec) -> Prepared:
    """All that `search_problem` reads of what was prepared, without model and data."""
    description = surrogate.description
    part = discover("autopeft.tasks")[description.cell.task]
    has_head = description.cell.task != "text-generation"
    stand_in = SimpleNamespace(
        spec=spec,
        groups={},
        base=SimpleNamespace(chosen=description.targets, head_params=int(has_head)),
        task=SimpleNamespace(metric=description.metric, defaults=part.defaults),
        methods=discover("autopeft.methods"),
        # Without a number of epochs, a slower head, which no measured plan has, is not tried.
        bench=SimpleNamespace(
            n_epochs=None, head_rates=SimpleNamespace(alone=lambda: description.head_rates)
        ),
        lengths=Lengths(
            full_steps=description.cell.full,
            batch_size=description.cell.batch_size,
            **{f"n_{split}": description.examples.get(split, 0) for split in ("search", "confirm", "test")},
        ),
    )
    return cast(Prepared, stand_in)


def plain_default(surrogate: Surrogate, seed: int) -> Found:
    """LoRA on all linear layers (or q and v) at the middle of its learning rates, trained once."""
    arm = next((name for name in BASELINES if name in surrogate.arms), None)
    if arm is None:
        raise TableError(f"Cell {surrogate.results.name} has neither {' nor '.join(BASELINES)} yet.")
    method = discover("autopeft.methods")["lora"].at_width(surrogate.description.hidden_size)
    low, high = method.learning_rate_range
    known = surrogate.arms[arm]
    plan = Plan(
        adapters=known.adapters,
        learning_rate=(low * high) ** 0.5,
        trainable_params=known.trainable_params,
    )
    return handed_over([plan], TableBench(surrogate, seed=seed))


def sweep(positions: Iterable[float]) -> Finder:
    """Each baseline at some positions of its rate, all in full."""
    wanted = [(arm, position) for arm in BASELINES for position in positions]

    def find(surrogate: Surrogate, seed: int) -> Found:
        plans = [surrogate.plans[name] for name in wanted if name in surrogate.plans]
        return handed_over(plans, TableBench(surrogate, seed=seed))

    return find


def at_random(n_plans: int) -> Finder:
    """Plans drawn from the table without replacement, each in a short run; the one of lowest loss in full."""

    def find(surrogate: Surrogate, seed: int) -> Found:
        bench, named = TableBench(surrogate, seed=seed), sorted(surrogate.plans)
        drawn = [named[i] for i in np.random.default_rng(seed).permutation(len(named))[:n_plans]]
        short = [bench.measure(surrogate.plans[name], bench.lengths.short(seed=seed)) for name in drawn]
        best = min(short, key=lambda m: math.inf if m.loss is None else m.loss)
        return handed_over([best.plan], bench)

    return find


def handed_over(plans: Iterable[Plan], bench: TableBench) -> Found:
    """Train plans in full, and read the test split for the best of them on confirm.

    Raises:
        TableError: There is no plan.
    """
    full = [bench.measure(plan, bench.lengths.full(seed=bench.seed)) for plan in plans]
    if not full:
        raise TableError(f"Cell {bench.surrogate.results.name} has no plan that the policy asks for.")

    def quality(run: Measurement) -> float:
        return -math.inf if run.metric is None else bench.surrogate.sign * run.metric

    best = max(full, key=quality).plan
    bench.measure(best, bench.lengths.test(seed=bench.seed))
    return Found(plan=best, bench=bench)


SEARCHES = {
    "search": "",
    "quick": "effort=quick",
    "thorough, one seed": "effort=thorough seeds=1",
}


def parsed(text: str) -> Finder:
    """The search under settings as text, such as `trials=48 max_cost=4 methods=[lora,ia3]`."""
    pairs = [word.partition("=") for word in text.split()]
    if wrong := [name for name, sign, _ in pairs if not sign]:
        raise TableError(f"{wrong[0]!r} is not of the form setting=value.")
    return searched({name: yaml.safe_load(value) for name, _, value in pairs})


def policies() -> dict[str, Finder]:
    """Every policy that has a name."""
    rules: dict[str, Finder] = {
        "plain default": plain_default,
        "sweep of two": sweep(_MIDDLE),
        "sweep": sweep(POSITIONS),
        "random 8": at_random(8),
    }
    return {**{name: parsed(text) for name, text in SEARCHES.items()}, **rules}

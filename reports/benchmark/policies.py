"""What finds a plan in a cell: a search under some settings, or a simple rule without the engine."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import yaml
from cells import POSITIONS
from pieces import without
from pydantic import ValidationError
from surrogate import Surrogate, TableBench
from table import SEARCH_SEED, TableError

from autopeft import engine, space
from autopeft.cli.progress import Silent
from autopeft.engine import Ledger, SearchProblem
from autopeft.executors import EXECUTORS
from autopeft.extension import Method, discover
from autopeft.pipeline.allowance import within_cost
from autopeft.pipeline.prepare import Prepared
from autopeft.pipeline.problem import requested_space, search_problem
from autopeft.records import SHORT_NAMES, Decision, Fidelity, Plan, RunSpec, SiteScores
from autopeft.space import AllocationContext

BASELINES = ("lora/all", "lora/q+v")


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a policy hands over, with the bench that measured for it."""

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
        requested = RunSpec.model_validate({**topics, "budget": budget, "search": search})
        given = frozenset(f"{topic}.{name}" for topic, names in topics.items() for name in names)
        spec = within_cost(_stand_in(surrogate, requested), given).spec
        bench = TableBench(surrogate, seed=seed)
        ledger = Ledger(
            executor=EXECUTORS["serial"],
            measure=bench.measure,
            progress=Silent(),
            clock=lambda: bench.seconds,
            limit_seconds=spec.search.max_time_seconds,
        )
        with errors_alone("autopeft"), errors_alone("optuna"):
            outcome = engine.search(problem_of(surrogate, spec), ledger)
        return Found(plan=outcome.best, bench=bench, verdict=outcome.verdict.label)

    return find


@contextmanager
def errors_alone(name: str) -> Iterator[None]:
    """A logger says nothing but errors inside."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def problem_of(surrogate: Surrogate, spec: RunSpec) -> SearchProblem:
    """The problem that `autopeft search` would give to the engine in the surrogate's cell.

    Methods and mixes whose first method no measured arm has are left out of the space.

    Raises:
        TableError: No method is left, or sites are to be ordered by a score that the description lacks.
    """
    description = surrogate.description
    methods = discover("autopeft.methods").changed(lambda method: method.at_width(description.hidden_size))
    names = [site.name for site in description.sites]
    if spec.search.score not in description.scores:
        raise TableError(f"The score is {spec.search.score}; cell.json has {', '.join(description.scores)}.")
    context = AllocationContext(
        sites=description.sites,
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
    return search_problem(
        _stand_in(surrogate, spec),
        space.feasible(requested.only(known_arms), context),
        context,
        [SiteScores(name=name, values=values) for name, values in description.scores.items()],
        user_plans=(),
    )


@dataclass(frozen=True, kw_only=True)
class _StandIn:
    spec: RunSpec
    data: SimpleNamespace
    base: SimpleNamespace
    task: SimpleNamespace
    methods: Mapping[str, Method]
    bench: SimpleNamespace
    full_steps: int
    decisions: tuple[Decision, ...] = ()
    rungs: None = None  # a new run has none yet


def _stand_in(surrogate: Surrogate, spec: RunSpec) -> Prepared:
    """All that `search_problem` reads of what was prepared, without model and data."""
    description = surrogate.description
    splits = {name: SimpleNamespace(labels=range(n)) for name, n in description.examples.items()}
    bench = SimpleNamespace(
        splits=splits,
        batch_size=description.cell.batch_size,
        head_rates=SimpleNamespace(alone=lambda: description.head_rates),
    )
    facts = description.metric
    defaults = SimpleNamespace(eval_examples=None)
    task = SimpleNamespace(**{**vars(facts), "metric": facts.name, "defaults": defaults})
    has_head = description.cell.task != "text-generation"
    base = SimpleNamespace(sites=description.sites, head_params=int(has_head))
    data = SimpleNamespace(**{name: SimpleNamespace(name=name, groups=()) for name in ("confirm", "test")})
    stand_in = _StandIn(
        spec=spec,
        data=data,
        base=base,
        task=task,
        methods=discover("autopeft.methods"),
        bench=bench,
        full_steps=description.cell.full,
    )
    return cast(Prepared, stand_in)


def plain_default(surrogate: Surrogate, seed: int) -> Found:
    """LoRA on all linear maps (or q and v) at the middle of its learning rates, with nothing measured."""
    method = discover("autopeft.methods")["lora"].at_width(surrogate.description.hidden_size)
    low, high = method.learning_rate_range
    known = surrogate.arms[_default_arm(surrogate)]
    plan = Plan(
        adapters=known.adapters,
        learning_rate=(low * high) ** 0.5,
        trainable_params=known.trainable_params,
    )
    return Found(plan=plan, bench=TableBench(surrogate, seed=seed))


def _default_arm(surrogate: Surrogate) -> str:
    arm = next((name for name in BASELINES if name in surrogate.arms), None)
    if arm is None:
        raise TableError(f"Cell {surrogate.results.name} has neither {' nor '.join(BASELINES)} yet.")
    return arm


def sweep(surrogate: Surrogate, seed: int) -> Found:
    """Each baseline at four rates on the search split, at the rung next to a full run."""
    steps = surrogate.description.cell.rungs[-1]
    return best_of(surrogate, _swept(surrogate, BASELINES), steps=steps, seed=seed)


def sweep_of_default(surrogate: Surrogate, seed: int) -> Found:
    """As `sweep`, of the arm of `plain_default` alone."""
    steps = surrogate.description.cell.rungs[-1]
    return best_of(surrogate, _swept(surrogate, [_default_arm(surrogate)]), steps=steps, seed=seed)


def at_random(n_plans: int) -> Finder:
    """Plans drawn from the table without replacement, each measured at the rung that ranks."""

    def find(surrogate: Surrogate, seed: int) -> Found:
        named = sorted(surrogate.plans)
        drawn = np.random.default_rng(seed).permutation(len(named))[:n_plans]
        rungs = surrogate.description.cell.rungs
        return best_of(surrogate, [named[i] for i in drawn], steps=rungs[len(rungs) // 2], seed=seed)

    return find


def best_arm_in_hindsight(surrogate: Surrogate, seed: int) -> Found:
    """Of every arm the rate with the lowest loss next to a full run; of these the best on test.

    It shows what is left of the regret where the arm is known: its cost is that of one arm.
    """
    steps = surrogate.description.cell.rungs[-1]
    found = [best_of(surrogate, _of_arms(surrogate, [arm]), steps=steps, seed=seed) for arm in surrogate.arms]
    return max(found, key=lambda each: surrogate.sign * surrogate.metric(each.plan, "test"))


def best_of(surrogate: Surrogate, named: Iterable[Named], *, steps: int, seed: int) -> Found:
    """The plan with the lowest loss on the search split after so many steps; ties go to the first.

    Raises:
        TableError: There is none.
    """
    bench, fidelity = TableBench(surrogate, seed=seed), on_search_split(surrogate, steps)
    measured = [bench.measure(surrogate.plans[name], fidelity) for name in named]
    finished = [(m.loss, index) for index, m in enumerate(measured) if m.loss is not None]
    if not finished:
        raise TableError(f"Of {len(measured)} plans in cell {surrogate.results.name} none has a loss.")
    return Found(plan=measured[min(finished)[1]].plan, bench=bench)


def on_search_split(surrogate: Surrogate, steps: int) -> Fidelity:
    """A run of so many steps, evaluated on the whole search split."""
    description = surrogate.description
    return Fidelity(
        split="search",
        train_steps=steps,
        train_examples=steps * description.cell.batch_size,
        eval_examples=description.examples["search"],
        seed=SEARCH_SEED,
    )


def _of_arms(surrogate: Surrogate, arms: Iterable[str]) -> list[Named]:
    wanted = list(arms)
    return [name for name in surrogate.plans if name[0] in wanted]


def _swept(surrogate: Surrogate, arms: Iterable[str]) -> list[Named]:
    return [name for name in _of_arms(surrogate, arms) if name[1] in POSITIONS]


SEARCHES = {
    "search": "",
    "trials 12": "trials=12",
    "trials 48": "trials=48",
    "4 R": "max_cost=4",
    "10 R": "max_cost=10",
    "random sampler": "sampler=random",
    "TPE": "sampler=tpe",
    "LoRA alone": "methods=[lora]",
}


def parsed(text: str) -> Finder:
    """The search under settings as text, such as `trials=48 max_cost=4 methods=[lora,ia3]`.

    `without=PIECE` takes out a piece of `pieces.py`, with `_` for spaces; it may stand several times.
    """
    pairs = [word.partition("=") for word in text.split()]
    if wrong := [name for name, sign, _ in pairs if not sign]:
        raise TableError(f"{wrong[0]!r} is not of the form setting=value.")
    taken_out = [value.replace("_", " ") for name, _, value in pairs if name == "without"]
    search = searched({name: yaml.safe_load(value) for name, _, value in pairs if name != "without"})

    def find(surrogate: Surrogate, seed: int) -> Found:
        with without(taken_out):
            return search(surrogate, seed)

    return find


def policies() -> dict[str, Finder]:
    """Every policy that has a name."""
    rules: dict[str, Finder] = {
        "plain default": plain_default,
        "sweep": sweep,
        "sweep of the default": sweep_of_default,
        "random 24": at_random(24),
        "best arm in hindsight": best_arm_in_hindsight,
    }
    return {**{name: parsed(text) for name, text in SEARCHES.items()}, **rules}

"""A specification as the problem that the engine answers: space, context, schedule, plans of the user."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from autopeft import adapters, engine, space
from autopeft.engine import Schedule, SearchProblem, check_sampler
from autopeft.extension import discover
from autopeft.pipeline.prepare import Prepared, quiet_libraries
from autopeft.pipeline.warm_start import read_warm_start
from autopeft.records import UNEVEN_NULLS, Arm, Plan, RunSpec, SiteScores
from autopeft.space import AllocationContext

_SMALLEST_SHARE = 1 / 32  # of the budget, where plans may spend less of it; chosen by hand
_SHARED_RANDOM = 0.5  # of the proposals then: a sampler that lowers the loss leans towards large plans
USER_BASELINE = Arm(kind="given", label="your baseline")
WARM_START = Arm(kind="given", label="warm start")

log = logging.getLogger(__name__)


def asked_space(spec: RunSpec) -> space.Space:
    """The search space, as far as methods, servers, limits and the objective go.

    Raises:
        SpecError: Nothing of it is left, or the sampler cannot work on it.
    """
    methods = discover("autopeft.methods")
    asked = space.load(spec.search.space, known_methods=methods, only=spec.search.methods)
    if spec.search.serve_on:
        servers = space.SERVERS if "any" in spec.search.serve_on else spec.search.serve_on
        asked = space.servable(asked, servers, methods)
    asked = space.limited(asked, spec.limits, methods)
    check_sampler(spec.search.sampler, asked)
    if spec.search.objective == "score":
        return asked
    shared = asked.sharing(_SMALLEST_SHARE)
    return shared.model_copy(update={"random_share": max(_SHARED_RANDOM, shared.random_share)})


def score_names(spec: RunSpec, asked: space.Space) -> list[str]:
    """The score that orders sites, those that the report shows beside it, and what the space asks for."""
    follows_spectrum = any("spectrum" in own.ranks_by for own in asked.methods.values())
    spectrum = ["spectrum"] if follows_spectrum else []
    return list(dict.fromkeys([spec.search.score, "gradient", "fisher", *spectrum, *UNEVEN_NULLS]))


def search_problem(
    prepared: Prepared,
    feasible: space.Space,
    context: AllocationContext,
    scores: Sequence[SiteScores],
    *,
    first_trials: int,
    user_plans: tuple[tuple[Arm, Plan], ...],
) -> SearchProblem:
    """All that the engine is given; space and context are those of `fit_to_budget`."""
    spec, names = prepared.spec, [site.name for site in prepared.base.sites]
    by_name = {score.name: dict(zip(names, score.values, strict=True)) for score in scores}
    profiles = {
        site: profile
        for score in scores
        if score.name == "spectrum"
        for site, profile in zip(names, score.profiles, strict=True)
    }
    return SearchProblem(
        spec=spec,
        space=feasible,
        context=context.with_scores(by_name[spec.search.score], profiles),
        schedule=schedule_of(prepared),
        metric=prepared.task.metric,
        greater_is_better=prepared.task.greater_is_better,
        head_rates=prepared.bench.head_rates().alone(),
        first_trials=first_trials,
        null_scores={name: by_name[name] for name in UNEVEN_NULLS},
        user_plans=user_plans,
        score_span=prepared.task.score_span,
    )


def given_plans(prepared: Prepared, context: AllocationContext) -> tuple[tuple[Arm, Plan], ...]:
    """The plans that the user brings into the race, by their arm; rate 0 where they tell none.

    Raises:
        SpecError, SiteError, ModelError: One of them cannot be used here.
    """
    asked, found = prepared.spec.search, []
    if asked.baseline is not None:
        with quiet_libraries():
            given = adapters.read_user_plan(Path(asked.baseline), prepared.base, prepared.methods)
        for note in given.notes:
            log.info("%s: %s", asked.baseline, note)
        if given.plan.trainable_params > context.max_params:
            log.warning(
                "Your baseline trains %s parameters, the budget allows %s: it is measured, and cannot win.",
                f"{given.plan.trainable_params:,}",
                f"{context.max_params:,}",
            )
        found.append((USER_BASELINE, given.plan))
    if asked.warm_start is not None:
        transferred = read_warm_start(Path(asked.warm_start), prepared, context)
        for phrase in transferred.lost:
            log.info("Of the warm start: %s", phrase)
        found.append((WARM_START, transferred.plan))
    return tuple(found)


def schedule_of(prepared: Prepared) -> Schedule:
    """Rungs and confirmations of a run; a cost limit widens and lengthens the rungs as far as it goes."""
    full, spec = prepared.full_steps, prepared.spec
    sizes = {name: len(split.labels) for name, split in prepared.bench.splits.items()}
    schedule = Schedule(
        rung_steps=engine.rungs(full, strategy=spec.search.strategy),
        full_steps=full,
        confirm_steps=max(1, round(full / 2)) if spec.confirm.fidelity == "half" else full,
        batch_size=prepared.bench.batch_size,
        n_search=sizes["search"],
        n_confirm=sizes["confirm"],
        n_test=sizes.get("test", 0),
        n_general=sizes.get("general", 0),
    )
    if spec.search.max_cost is None or not schedule.last:
        return schedule
    return engine.stretched(schedule, n_first=spec.search.trials, max_cost=spec.search.max_cost)

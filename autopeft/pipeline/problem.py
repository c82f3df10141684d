"""The problem that the engine solves: search space, scores, schedule and the user's plans."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from autopeft import adapters, engine, model, space
from autopeft.engine import Schedule, SearchProblem
from autopeft.extension import discover, metric_facts, slow_starters
from autopeft.pipeline.compared import groups_of
from autopeft.pipeline.computing import in_memory_of_run
from autopeft.pipeline.prepare import Prepared
from autopeft.records import (
    SIZE_SCORE,
    Arm,
    Fidelity,
    Plan,
    RunSpec,
    SiteScores,
    with_setting,
)
from autopeft.space import AllocationContext

_SHOWN_SCORES = ("gradient", "fisher")  # which the report shows beside the score that orders sites
USER_BASELINE = Arm(kind="given", label="your baseline")

log = logging.getLogger(__name__)


def requested_space(spec: RunSpec) -> space.Space:
    """The search space, reduced to what methods, servers and limits allow.

    Raises SpecError where no arm is left.
    """
    methods = discover("autopeft.methods")
    requested = space.load(spec.search.space, known_methods=methods, only=spec.search.methods)
    if spec.search.serve_on:
        servers = space.SERVERS if "any" in spec.search.serve_on else spec.search.serve_on
        requested = space.servable(requested, servers, methods)
    return space.limited(requested, spec.limits, methods)


def score_names(spec: RunSpec) -> list[str]:
    """Scores to compute: the one that orders sites, and those that the report shows."""
    return list(dict.fromkeys([spec.search.score, *_SHOWN_SCORES]))


@in_memory_of_run("measuring the inputs of the task head")
def search_problem(
    prepared: Prepared,
    feasible: space.Space,
    context: AllocationContext,
    scores: Sequence[SiteScores],
    *,
    user_plans: tuple[tuple[Arm, Plan], ...],
) -> SearchProblem:
    """The engine's input; `feasible` and `context` are what `fit_to_budget` returned."""
    spec, names = prepared.spec, [site.name for site in prepared.base.sites]
    by_name = {score.name: dict(zip(names, score.values, strict=True)) for score in scores}
    score = spec.search.score
    if score not in by_name:  # memory did not hold an example: sites are ordered by their number of weights
        score = SIZE_SCORE
        spec = with_setting(spec, "search.score", score)
    return SearchProblem(
        spec=spec,
        space=feasible,
        context=replace(context, scores=by_name[score]),
        schedule=schedule_of(prepared),
        metric=metric_facts(prepared.task),
        head_rates=prepared.bench.head_rates.alone(),
        user_plans=user_plans,
        groups=groups_of(prepared),
    )


def longest_runs(problem: SearchProblem) -> list[Fidelity]:
    """The last rung, all confirming runs and the test split: they read what a search reads."""
    schedule, confirm = problem.schedule, problem.spec.confirm
    runs = [problem.rung(schedule.last)]
    if confirm.fidelity != "none":
        runs += [problem.confirmation(index) for index in range(confirm.seeds)]
        runs += [schedule.fidelity("test", seed=runs[-1].seed)] if schedule.n_test else []
    return runs


def check_user_files(spec: RunSpec) -> None:
    """Raise SpecError where the file of `--baseline` cannot be read; needs no model."""
    if spec.search.baseline is not None:
        adapters.check_user_file(Path(spec.search.baseline))


def user_plans(prepared: Prepared, context: AllocationContext) -> tuple[tuple[Arm, Plan], ...]:
    """The plan of `--baseline` with its arm, if there is one; learning rate 0 where its file has none."""
    path = prepared.spec.search.baseline
    if path is None:
        return ()
    with model.quiet_libraries():
        baseline = adapters.read_user_plan(Path(path), prepared.base, prepared.methods)
    for note in baseline.notes:
        log.info("%s: %s", path, note)
    if baseline.plan.trainable_params > context.max_params:
        log.warning(
            "Your baseline trains %s parameters and the budget allows %s: it is measured but cannot be the "
            "best plan.",
            f"{baseline.plan.trainable_params:,}",
            f"{context.max_params:,}",
        )
    return ((USER_BASELINE, baseline.plan),)


def schedule_of(prepared: Prepared) -> Schedule:
    """Rungs and confirmations of a run; with `--max-cost`, rungs as wide and long as the search may cost.

    Without `--methods`, room is left for a method that
    starts slowly, whether the search space holds one or not.
    """
    full, spec = prepared.full_steps, prepared.spec
    sizes = {name: len(split.labels) for name, split in prepared.bench.splits.items()}
    if spec.data.max_eval_examples is not None:
        sizes = {name: min(size, spec.data.max_eval_examples) for name, size in sizes.items()}
    schedule = Schedule(
        rung_steps=engine.rungs(full),
        full_steps=full,
        confirm_steps=max(1, round(full / 2)) if spec.confirm.fidelity == "half" else full,
        batch_size=prepared.bench.batch_size,
        n_search=sizes["search"],
        n_confirm=sizes["confirm"],
        n_test=sizes.get("test", 0),
        has_head=prepared.base.head_params > 0,
    )
    if slow_starters(prepared.methods) & set(spec.search.methods or prepared.methods):
        schedule = schedule.with_slow_starter
    left, n_first = spec.search.max_cost, spec.search.trials
    if left is not None and spec.confirm.fidelity != "none":
        left -= schedule.confirm_cost(n_seeds=spec.confirm.seeds)
    if left is None:
        return schedule
    return engine.stretched(schedule, n_first=n_first, max_cost=left)

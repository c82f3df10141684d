"""`search --dry-run`: everything that a search needs is checked, and its size is told."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

from autopeft import engine
from autopeft.pipeline.allowance import DECIDED, confirm_cost
from autopeft.pipeline.forgetting import check_forgetting, with_general_text
from autopeft.pipeline.prepare import fit_to_budget, parse_budget, prepare, with_demo_settings
from autopeft.pipeline.problem import requested_space, schedule_of, user_plans
from autopeft.pipeline.resuming import resumed
from autopeft.pipeline.time_limit import TimeLimit, within_time
from autopeft.pipeline.tracking import check_trackers
from autopeft.pipeline.working import check_executor
from autopeft.records import Decision, GeneralText, RunSpec


@dataclass(frozen=True, kw_only=True)
class Preview:
    """The size of a search that has not started: the answer to `--dry-run`.

    `trials` counts plans at the first rung. `search_cost` and `confirm_cost` are bounds in R, the second for
    two plans and the head alone. `forgetting` is the text on which forgetting would be measured, None without
    `--forgetting`. `decisions` are the settings that would be derived.
    """

    max_trainable_params: int
    base_params: int
    head_params: int
    n_sites: int
    methods: tuple[str, ...]
    trials: int
    search_cost: float
    confirm_cost: float
    rung_steps: tuple[int, ...]
    full_run_steps: int
    confirm_steps: int
    confirm_seeds: int
    forgetting: GeneralText | None = None
    decisions: tuple[Decision, ...] = ()


def preview(spec: RunSpec, *, given: frozenset[str] = frozenset(), resume: bool = False) -> Preview:
    """Check everything that a search needs, and report its size without starting it."""
    started = time.monotonic()
    spec = resumed(spec, given) if resume else with_demo_settings(spec, given)
    check_executor(spec)
    check_trackers(spec)
    requested = requested_space(spec)
    check_forgetting(spec)
    prepared = with_general_text(prepare(spec))
    feasible, context = fit_to_budget(prepared, requested)
    user_plans(prepared, context)  # raises where a plan of the user cannot be used
    kept = given | DECIDED if resume else given
    prepared = within_time(prepared, TimeLimit(spec=spec, given=kept, started=started), context)
    spec = prepared.spec
    schedule = schedule_of(prepared)
    n_trials = engine.n_first(schedule, trials=spec.search.trials, strategy=spec.search.strategy)
    planned = engine.planned_cost(schedule, trials=spec.search.trials, strategy=spec.search.strategy)
    return Preview(
        max_trainable_params=parse_budget(prepared).max_trainable_params,
        base_params=prepared.base.base_params,
        head_params=prepared.base.head_params,
        n_sites=len(prepared.base.sites),
        methods=feasible.arms,
        trials=n_trials,
        search_cost=min(planned, (spec.search.max_cost or math.inf) - confirm_cost(prepared)),
        confirm_cost=confirm_cost(prepared),
        rung_steps=schedule.rung_steps,
        full_run_steps=schedule.full_steps,
        confirm_steps=schedule.confirm_steps,
        confirm_seeds=spec.confirm.seeds,
        forgetting=prepared.general,
        decisions=prepared.decisions,
    )

"""How small can it be: the best plan of smaller budgets, each step in a short race of its own."""

from __future__ import annotations

import logging

from autopeft import evidence
from autopeft.engine.finalists import rank
from autopeft.engine.judge import Judgement, scores_of
from autopeft.engine.problem import SearchProblem
from autopeft.engine.runs import Runs
from autopeft.records import SizeStep, Status

log = logging.getLogger(__name__)


def smaller_budgets(problem: SearchProblem, runs: Runs, judged: Judgement) -> tuple[SizeStep, ...]:
    """The best plan of a fifth of the budget, of a fifth of that and so on, as many as `--sizes` asks for.

    Each is the best of a short race, trained in full with the seed of the plan that is handed over, and
    compared with it in pairs on the confirm rows. Budgets that pay no plan, and limits of time and cost, end
    the list.
    """
    steps: list[SizeStep] = []
    for power in range(1, problem.spec.search.sizes):
        step = _best_of(problem, runs, judged, problem.smaller(power))
        if step is None:
            break
        steps.append(step)
    return tuple(steps)


def _best_of(problem: SearchProblem, runs: Runs, judged: Judgement, small: SearchProblem) -> SizeStep | None:
    lengths, seed, max_params = problem.lengths, problem.seeds[0], small.context.max_params
    plans = {plan: arm for arm, plan in small.small_plans}
    if not plans:
        return None
    short, full = [lengths.short(seed=seed)] * len(plans), [lengths.full(seed=seed)]
    words = f"{max_params:,} parameters"
    if not runs.has_room([*short, *full]):
        log.warning("The limits do not pay a search among plans of %s.", words)
        return None
    for plan, arm in plans.items():
        runs.arms.setdefault(plan, (arm, False))
    earlier = set(runs.measured)
    runs.begin(f"short runs, {words}", short)
    ranked = rank(problem, runs.measure(zip(plans, short, strict=True)))
    if not ranked:
        return None
    plan = ranked[0].plan
    runs.begin(f"full run, {words}", full)
    (run,) = runs.measure([(plan, lengths.full(seed=seed))])
    if run.status is not Status.COMPLETE or run.metric is None:
        return None
    difference = evidence.paired_difference(
        scores_of(problem, [run]),
        scores_of(problem, judged.finished[judged.best][:1]),
        span=problem.metric.score_span,
        examples=problem.examples("confirm"),
    )
    return SizeStep(
        share=max_params / problem.context.max_params,
        max_trainable_params=max_params,
        plan=plan,
        arm=plans[plan],
        metric_mean=run.metric,
        mean_difference=difference.mean,
        interval_95=(difference.low, difference.high),
        seconds=sum(m.total_seconds for key, m in runs.measured.items() if key not in earlier),
    )

"""How small can it be: the best plan of smaller budgets, each found in a short race of its own."""

from __future__ import annotations

from dataclasses import replace

from autopeft import evidence
from autopeft.engine.finalists import rank
from autopeft.engine.judge import Judgement, scores_of
from autopeft.engine.problem import SearchProblem
from autopeft.engine.runs import Runs
from autopeft.records import Arm, Plan, SizeStep, Status
from autopeft.space import FirstPlan

_FACTOR = 5  # between two budgets

# Where a budget pays only some of the maps, placement decides: methods with few numbers a map at every map,
# and LoRA in few layers, the last and those of the highest score.
_LIST = (
    FirstPlan(method="lora", placement="q+v", rate=0.38),
    FirstPlan(method="lora", rate=0.38),
    FirstPlan(method="lora", layers_by="score", rate=0.38),
    FirstPlan(method="road", rate=0.5),
    FirstPlan(method="road", placement="attention", rate=0.5),
    FirstPlan(method="ia3", rate=0.5),
    FirstPlan(method="ia3", placement="attention", rate=0.5),
    FirstPlan(method="hira", rate=0.5),
)


def smaller_budgets(problem: SearchProblem, runs: Runs, judged: Judgement) -> tuple[SizeStep, ...]:
    """The best plan of a fifth of the budget, of a fifth of that and so on, as many as `--sizes` asks for.

    Each is the best of a short race, trained in full with the seed of the plan that is handed over, and
    compared with it in pairs on the confirm rows. Budgets that pay no plan end the list.
    """
    steps: list[SizeStep] = []
    for power in range(1, problem.spec.search.sizes):
        most = problem.context.max_params // _FACTOR**power
        found = _best_of(problem, runs, judged, max_params=most)
        if found is None:
            break
        steps.append(found)
    return tuple(steps)


def _best_of(problem: SearchProblem, runs: Runs, judged: Judgement, *, max_params: int) -> SizeStep | None:
    small = _within(problem, max_params)
    lengths, seed = problem.lengths, problem.seeds[0]
    plans: dict[Plan, Arm] = {}
    for arm, plan in small.first_plans:
        if plan.adapters and plan.trainable_params <= max_params:
            plans.setdefault(plan, arm)
            runs.arms.setdefault(plan, (arm, False))
    if not plans:
        return None
    words = f"{max_params:,} parameters"
    runs.begin(f"short runs, {words}", [lengths.short(seed=seed)] * len(plans))
    ranked = rank(problem, runs.measure((plan, lengths.short(seed=seed)) for plan in plans))
    if not ranked:
        return None
    plan = ranked[0].plan
    runs.begin(f"full run, {words}", [lengths.full(seed=seed)])
    (run,) = runs.measure([(plan, lengths.full(seed=seed))])
    if run.status is not Status.COMPLETE or run.metric is None:
        return None
    difference = evidence.paired_difference(
        scores_of(problem, [run]),
        scores_of(problem, judged.finished[judged.best][:1]),
        span=problem.metric.score_span,
        examples=problem.examples("confirm"),
    )
    spent = [m for (other, _), m in runs.measured.items() if other in plans]
    return SizeStep(
        share=max_params / problem.context.max_params,
        max_trainable_params=max_params,
        plan=plan,
        arm=plans[plan],
        metric_mean=run.metric,
        mean_difference=difference.mean,
        interval_95=(difference.low, difference.high),
        seconds=sum(m.total_seconds for m in spent),
    )


def _within(problem: SearchProblem, max_params: int) -> SearchProblem:
    """The problem with a smaller budget, its list that of small plans in the methods of the space."""
    space = problem.space.model_copy(update={"first": dict.fromkeys(problem.space.first, _LIST)})
    return replace(
        problem, space=space, context=replace(problem.context, max_params=max_params), user_plan=None
    )

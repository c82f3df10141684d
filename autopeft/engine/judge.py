"""Full runs of the finalists, the verdict on them, the reading of the test split, and smaller budgets."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from autopeft import statistics
from autopeft.engine.finalists import rank
from autopeft.engine.problem import SearchProblem
from autopeft.engine.runs import Runs, broken_off
from autopeft.errors import TrainingError
from autopeft.types import FullRun, Measurement, Plan, SizeStep, Status, Verdict

_ABOVE_BUDGET = "{0} is handed over, since {1} trains more parameters than the budget allows."
_MARGIN = 0.01  # one point, or one percent of a loss

Finished = Mapping[Plan, Sequence[Measurement]]

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """What is handed over, what it was compared with, and how each finished plan did on the confirm split."""

    best: Plan
    baseline: Plan
    challenger: Plan | None
    verdict: Verdict
    finished: Finished


def train_in_full(
    problem: SearchProblem, runs: Runs, baselines: Sequence[Plan], challengers: Sequence[Plan]
) -> tuple[Plan, Finished]:
    """Train the best baseline and the challengers that the limits allow, continuing their short runs.

    Return the baseline, and the full runs of each plan that finished, one for each seed. The best factor of
    the head's learning rate is found with the baseline, and all plans are trained at it. If a baseline
    diverges, the next one is trained. Challengers that fail or are beyond the limits are left out, with a
    warning. If the baseline exceeds the budget, it cannot be handed over, and one challenger is trained
    beyond any limit.

    Raises:
        TrainingError: The machine broke off a run of the baseline, or all baselines diverged.
    """
    plans = [baselines[0], *challengers]
    factors = problem.head_factors if baselines[0].adapters else problem.head_factors[:1]
    slower_heads = [problem.lengths.full(seed=problem.seeds[0])] * (len(factors) - 1)

    def fits(n_plans: int) -> bool:
        tried = [_at_head_factor(runs, plan, factor) for plan in plans[:n_plans] for factor in factors]
        return runs.has_room([*problem.full_runs(n_plans=n_plans), *slower_heads], tried)

    n_affordable = max(
        next(filter(fits, range(len(plans), 1, -1)), 1) - 1, 0 if problem.is_allowed(plans[0]) else 1
    )
    if n_affordable < len(challengers):
        log.warning(
            "The limits allow %d of %d challengers in full; raise --max-time or --max-cost for more.",
            n_affordable,
            len(challengers),
        )
    challengers = challengers[:n_affordable]
    for plan in [plan for plan in challengers if not plan.adapters]:
        runs.arms.setdefault(plan, problem.head[0])
    full = [problem.lengths.full(seed=seed) for seed in problem.seeds]
    runs.begin("full runs", [*full * (1 + len(challengers)), *slower_heads])
    factor = _head_factor(problem, runs, baselines[0], factors)
    challengers = [_at_head_factor(runs, plan, factor) for plan in challengers]
    finished: dict[Plan, list[Measurement]] = {}
    for index, usual in enumerate(baselines):
        baseline = _at_head_factor(runs, usual, factor)
        plans = [baseline, *challengers] if index == 0 else [baseline]
        results = iter(runs.measure_all((plan, fidelity) for plan in plans for fidelity in full))
        for plan in plans:
            of_plan = [next(results) for _ in full]
            failed = next((m for m in of_plan if m.status is not Status.COMPLETE), None)
            if failed is None:
                finished[plan] = of_plan
            elif failed.status.is_of_machine and plan == baseline:
                raise broken_off("The full run", failed)
            else:
                again = "; --resume tries it again" if failed.status.is_of_machine else ""
                log.warning("Plan %s is left out: %s%s.", plan.digest, failed.reason, again)
        if baseline in finished:
            return baseline, finished
    raise TrainingError(
        "No learning rate of the baseline finished a full run: all of them diverged. Check the data, or "
        "set lower rates with learning_rate in a search space."
    )


def _head_factor(problem: SearchProblem, runs: Runs, baseline: Plan, factors: Sequence[float]) -> float:
    """Train the baseline at each factor of the head's learning rate; return the one with the lowest loss."""
    if len(factors) == 1:
        return factors[0]
    full = problem.lengths.full(seed=problem.seeds[0])
    results = runs.measure_all((_at_head_factor(runs, baseline, factor), full) for factor in factors)
    for run in results:
        if run.status.is_of_machine:
            log.warning("Plan %s is left out: %s.", run.plan.digest, run.reason)
    losses = [math.inf if run.loss is None else run.loss for run in results]
    return factors[losses.index(min(losses))]


def _at_head_factor(runs: Runs, plan: Plan, factor: float) -> Plan:
    """Set the rate of a plan's task head, unless the plan has one of its own, and name the new plan."""
    if factor == 1 or plan.head_factor != 1 or not plan.adapters:
        return plan
    changed, arm = replace(plan, head_factor=factor), runs.arms[plan]
    runs.arms.setdefault(changed, replace(arm, label=f"{arm.label}, head rate / {1 / factor:g}"))
    return changed


def judge(problem: SearchProblem, runs: Runs, baseline: Plan, finished: Finished) -> Judgement:
    """Compare the best challenger with the baseline on all confirm rows, and choose which is handed over.

    If the baseline exceeds the budget, it is the challenger, as `inconclusive`; TrainingError without a
    challenger.
    """
    challengers = [plan for plan in finished if plan != baseline]
    challenger = max(challengers, key=lambda plan: _mean(problem, finished[plan]), default=None)
    difference = None
    if challenger is not None:
        difference = statistics.paired_difference(
            *(scores_of(problem, finished[plan]) for plan in (challenger, baseline)),
            span=problem.metric.score_span,
            examples=problem.examples("confirm"),
            n_challengers=len(challengers),
        )
    margin = problem.spec.search.margin  # the difference that does not matter
    if margin is None:  # 0.01, or 1 % of an unbounded loss or error
        is_unbounded_loss = problem.metric.score_span is None and not problem.metric.greater_is_better
        margin = _MARGIN * abs(_mean(problem, finished[baseline])) if is_unbounded_loss else _MARGIN
    names = _name(runs, challenger or baseline), _name(runs, baseline)
    verdict = statistics.verdict(
        difference,
        names=names,
        params=((challenger or baseline).trainable_params, baseline.trainable_params),
        margin=margin,
        metric=problem.metric,
    )
    best = baseline if challenger is None or verdict.label == "default kept" else challenger
    if not problem.is_allowed(best):  # only a plan of the user can exceed the budget
        if challenger is None:
            raise TrainingError(
                "Your baseline exceeds the budget, and no plan within the budget finished a full run. Raise "
                "--budget, or search with --effort normal."
            )
        best, verdict = (
            challenger,
            replace(verdict, label="inconclusive", sentence=_ABOVE_BUDGET.format(*names)),
        )
    return Judgement(best=best, baseline=baseline, challenger=challenger, verdict=verdict, finished=finished)


def _name(runs: Runs, plan: Plan) -> str:
    arm = runs.arms[plan]
    return {"head": "the head alone", "untrained": "the untrained model"}.get(arm.label, arm.label)


def scores_of(problem: SearchProblem, runs: Sequence[Measurement]) -> list[list[float]]:
    """Return the scores (S, N) of a plan's S runs on N rows, with the sign that makes larger ones better."""
    return [[problem.sign * score for score in run.example_scores] for run in runs]


def _mean(problem: SearchProblem, runs: Sequence[Measurement]) -> float:
    return fmean(score for scores in scores_of(problem, runs) for score in scores)


def read_test(problem: SearchProblem, runs: Runs, judged: Judgement) -> Finished:
    """Measure best and baseline, from their kept weights, on the test split; empty without a test split.

    Raises:
        TrainingError: A run did not complete.
    """
    if not problem.lengths.n_test:
        return {}
    plans = list(dict.fromkeys([judged.best, judged.baseline]))
    fidelities = [problem.lengths.test(seed=seed) for seed in problem.seeds]
    runs.begin("test", fidelities * len(plans))
    tested = {plan: runs.measure_all((plan, fidelity) for fidelity in fidelities) for plan in plans}
    for of_plan in tested.values():
        if failed := next((m for m in of_plan if m.status is not Status.COMPLETE), None):
            raise broken_off("A run on the test split", failed)
    return tested


def full_runs(
    problem: SearchProblem, runs: Runs, judged: Judgement, finished: Finished
) -> tuple[FullRun, ...]:
    """Average the runs of each plan in `finished`: best, baseline, challenger, then others by their arms."""
    names = {judged.baseline: "baseline", judged.best: "best"}
    if judged.challenger is not None:
        names.setdefault(judged.challenger, "challenger")
    order = dict.fromkeys([judged.best, judged.baseline, *filter(None, [judged.challenger]), *finished])
    records = []
    for plan in [plan for plan in order if plan in finished]:
        of_plan = finished[plan]
        table = [list(run.example_scores) for run in of_plan]
        mean, std_error = statistics.mean_and_std_error(
            table, span=problem.metric.score_span, examples=problem.examples(of_plan[0].fidelity.split)
        )
        records.append(
            FullRun(
                name=names.get(plan, str(runs.arms[plan])),
                plan=plan,
                split=of_plan[0].fidelity.split,
                metric_mean=mean,
                metric_std_error=std_error,
                seeds=tuple(run.fidelity.seed for run in of_plan),
                metrics=tuple(math.fsum(scores) / len(scores) for scores in table),
                mean_loss=math.fsum(run.loss or 0.0 for run in of_plan) / len(of_plan),
                train_seconds=math.fsum(run.train_seconds_from_start for run in of_plan) / len(of_plan),
            )
        )
    return tuple(records)


def smaller_budgets(problem: SearchProblem, runs: Runs, judged: Judgement) -> tuple[SizeStep, ...]:
    """Find the best plan of a fifth of the budget, of a fifth of that, and so on.

    `--sizes` counts the full budget too, so that `--sizes 3` asks for two smaller ones. For each, small plans
    make short runs, and the best is trained in full and compared with the plan that is handed over: same
    seed, same confirm rows. The list ends early if no plan fits, time or cost runs out, or a run fails.
    """
    steps: list[SizeStep] = []
    for power in range(1, problem.spec.search.sizes):
        step = _best_of_size(problem, runs, judged, problem.smaller(power))
        if step is None:
            break
        steps.append(step)
    return tuple(steps)


def _best_of_size(
    problem: SearchProblem, runs: Runs, judged: Judgement, small: SearchProblem
) -> SizeStep | None:
    lengths, seed, max_params = problem.lengths, problem.seeds[0], small.context.max_params
    plans = {plan: arm for arm, plan in small.small_plans}
    if not plans:
        return None
    short, full = [lengths.short(seed=seed)] * len(plans), [lengths.full(seed=seed)]
    words = f"{max_params:,} parameters"
    if not runs.has_room([*short, *full], list(plans)):
        log.warning("The limits do not pay a search among plans of %s.", words)
        return None
    for plan, arm in plans.items():
        runs.arms.setdefault(plan, arm)
    earlier = set(runs.measured)
    runs.later -= Counter([*short, *full])
    runs.begin(f"short runs, {words}", short)
    ranked = rank(problem, runs.measure_all(zip(plans, short, strict=True)))
    if not ranked:
        return None
    plan = _at_head_factor(runs, ranked[0].plan, judged.baseline.head_factor)
    runs.begin(f"full run, {words}", full)
    (run,) = runs.measure_all([(plan, lengths.full(seed=seed))])
    if run.metric is None:
        return None
    difference = statistics.paired_difference(
        scores_of(problem, [run]),
        scores_of(problem, judged.finished[judged.best][:1]),
        span=problem.metric.score_span,
        examples=problem.examples("confirm"),
    )
    return SizeStep(
        share=max_params / problem.context.max_params,
        max_trainable_params=max_params,
        plan=plan,
        arm=runs.arms[plan],
        metric_mean=run.metric,
        mean_difference=difference.mean,
        interval_95=(difference.low, difference.high),
        seconds=sum(m.total_seconds for key, m in runs.measured.items() if key not in earlier),
    )

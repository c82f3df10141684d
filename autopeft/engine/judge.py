"""Full runs of the finalists, the verdict on them, the reading of the test split, and smaller budgets."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from autopeft import evidence
from autopeft.engine.finalists import rank
from autopeft.engine.problem import SearchProblem
from autopeft.engine.runs import Runs, broken_off
from autopeft.errors import TrainingError
from autopeft.records import FullRun, LongerRun, Measurement, Plan, SizeStep, Status, Verdict

_DAMPED = 0.5
_BEYOND = "{0} is handed over, since {1} trains more parameters than the budget allows."
_MARGIN = 0.01  # one point, or one percent of a loss

Finished = Mapping[Plan, Sequence[Measurement]]

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """What is handed over, what it was compared with, and how each finished plan did on the confirm split."""

    best: Plan
    baseline: Plan
    rival: Plan | None
    verdict: Verdict
    finished: Finished


def train_in_full(
    problem: SearchProblem, runs: Runs, baselines: Sequence[Plan], rivals: Sequence[Plan]
) -> tuple[Plan, Finished]:
    """Train the best baseline and the rivals that the limits pay, each from where its short run branched off.

    A baseline that diverges gives way to the next one. If it exceeds the budget, a rival is trained whatever
    the limits are: it is handed over.

    Raises:
        TrainingError: The machine broke off a run of the baseline, or all baselines diverged.
    """
    n_paid = next((n for n in range(len(rivals), 0, -1) if _has_room(problem, runs, n)), 0)
    n_paid = max(n_paid, 0 if problem.is_allowed(baselines[0]) else 1)
    if n_paid < len(rivals):
        log.warning(
            "The limits pay %d of %d rivals in full; raise --max-time or --max-cost for more.",
            n_paid,
            len(rivals),
        )
    rivals = rivals[:n_paid]
    for plan in [plan for plan in rivals if not plan.adapters]:
        runs.arms.setdefault(plan, (problem.head[0], False))
    runs.begin("full runs", [problem.lengths.full(seed=seed) for seed in problem.seeds] * (1 + len(rivals)))
    finished: dict[Plan, list[Measurement]] = {}
    for place, baseline in enumerate(baselines):
        plans = [baseline, *rivals] if place == 0 else [baseline]
        keys = [(plan, problem.lengths.full(seed=seed)) for plan in plans for seed in problem.seeds]
        results = iter(runs.measure_all(keys))
        for plan in plans:
            of_plan = [next(results) for _ in problem.seeds]
            failed = next((m for m in of_plan if m.status is not Status.COMPLETE), None)
            if failed is None:
                finished[plan] = of_plan
            elif failed.status.is_of_machine and plan == baseline:
                raise broken_off("The full run", failed)
            else:
                log.warning("Plan %s is left out: %s.", plan.digest, failed.reason)
        if baseline in finished:
            return baseline, finished
    raise TrainingError(
        "No learning rate of the baseline finished a full run: all of them diverged. Check the data, or "
        "set lower rates with learning_rate in a search space."
    )


def _has_room(problem: SearchProblem, runs: Runs, n_rivals: int) -> bool:
    return runs.has_room(problem.full_runs(n_plans=1 + n_rivals))


def judge(problem: SearchProblem, runs: Runs, baseline: Plan, finished: Finished) -> Judgement:
    """Compare the best rival with the baseline on all confirm rows, and say which is handed over."""
    rivals = [plan for plan in finished if plan != baseline]
    rival = max(rivals, key=lambda plan: _mean(problem, finished[plan]), default=None)
    difference = None
    if rival is not None:
        difference = evidence.paired_difference(
            *(scores_of(problem, finished[plan]) for plan in (rival, baseline)),
            span=problem.metric.score_span,
            examples=problem.examples("confirm"),
            n_rivals=len(rivals),
        )
    names = _name(runs, rival or baseline), _name(runs, baseline)
    verdict = evidence.verdict(
        difference,
        names=names,
        params=((rival or baseline).trainable_params, baseline.trainable_params),
        margin=margin_of(problem, finished[baseline]),
        metric=problem.metric,
    )
    best = baseline if rival is None or verdict.label == "default kept" else rival
    if not problem.is_allowed(best):  # the user's plan is beyond the budget
        if rival is None:
            raise TrainingError(
                "Your baseline exceeds the budget, and no plan within the budget finished a full run. Raise "
                "--budget, or search with --effort normal."
            )
        best, verdict = rival, replace(verdict, label="inconclusive", sentence=_BEYOND.format(*names))
    return Judgement(best=best, baseline=baseline, rival=rival, verdict=verdict, finished=finished)


def _name(runs: Runs, plan: Plan) -> str:
    arm, _ = runs.arms[plan]
    return {"head": "the head alone", "untrained": "the untrained model"}.get(arm.label, arm.label)


def margin_of(problem: SearchProblem, baseline: Sequence[Measurement]) -> float:
    """The difference that does not matter: the user's, 0.01, or 1 % of a loss or error without bounds."""
    if problem.spec.search.margin is not None:
        return problem.spec.search.margin
    is_unbounded_loss = problem.metric.score_span is None and not problem.metric.greater_is_better
    return _MARGIN * abs(_mean(problem, baseline)) if is_unbounded_loss else _MARGIN


def scores_of(problem: SearchProblem, runs: Sequence[Measurement]) -> list[list[float]]:
    """Scores (S, N) of the seeds of a plan, larger is better."""
    return [[problem.sign * score for score in run.example_scores] for run in runs]


def _mean(problem: SearchProblem, runs: Sequence[Measurement]) -> float:
    return math.fsum(map(math.fsum, scores_of(problem, runs)))


def read_test(problem: SearchProblem, runs: Runs, judged: Judgement) -> Finished:
    """The test split, read once, with the kept weights of best and baseline; empty where there is none.

    Raises:
        TrainingError: A run broke off, which says nothing of its plan's quality.
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
    """Mean and standard error of each plan on a split: best, baseline, rival, then others by their arms."""
    names = {judged.baseline: "baseline", judged.best: "best"}
    if judged.rival is not None:
        names.setdefault(judged.rival, "rival")
    order = dict.fromkeys([judged.best, judged.baseline, *filter(None, [judged.rival]), *finished])
    records = []
    for plan in [plan for plan in order if plan in finished]:
        of_plan = finished[plan]
        table = [list(run.example_scores) for run in of_plan]
        mean, std_error = evidence.mean_and_std_error(
            table, span=problem.metric.score_span, examples=problem.examples(of_plan[0].fidelity.split)
        )
        records.append(
            FullRun(
                name=names.get(plan, str(runs.arms[plan][0])),
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


def longer_run(problem: SearchProblem, runs: Runs, judged: Judgement) -> LongerRun | None:
    """What twice the steps promise the best plan, by the step from its short run to its full one.

    The error, or a loss, falls as a power of the steps, and by half of what the two runs tell, since the
    first steps bring most: e(2n) = e(n) (e(n) / e(s)) ** (log 2 / log(n / s) / 2). On recorded runs it is off
    by 3.8 points on average and 2.3 too high (reports/LOG.md, 2026-11-29).
    The short run was scored on the search split and the full one on confirm, which adds the error of both.
    None without a short run with a metric, for a metric without a best value, or if nothing fell.
    """
    seed, lengths = problem.seeds[0], problem.lengths
    short = runs.measured.get((judged.best, lengths.short(seed=seed)))
    full = judged.finished[judged.best][0].metric
    if short is None or short.metric is None or full is None or lengths.short_steps >= lengths.full_steps:
        return None
    is_error = not problem.metric.greater_is_better
    if not (is_error or problem.metric.is_share):
        return None
    short_error, full_error = (value if is_error else 1.0 - value for value in (short.metric, full))
    if not 0 < full_error < short_error:
        return None
    ratio = (full_error / short_error) ** (
        _DAMPED * math.log(2) / math.log(lengths.full_steps / lengths.short_steps)
    )
    gain = full_error * (1 - ratio)
    return LongerRun(steps=2 * lengths.full_steps, metric=full + (-gain if is_error else gain), gain=gain)


def smaller_budgets(problem: SearchProblem, runs: Runs, judged: Judgement) -> tuple[SizeStep, ...]:
    """Find the best plan of a fifth of the budget, of a fifth of that, and so on.

    `--sizes` counts the full budget too, so that it asks for one fewer. Each is the best of a short race,
    trained in full with the seed of the plan that is handed over, and compared with it in pairs on the
    confirm rows. Budgets that pay no plan, and limits of time and cost, end the list.
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
    if not runs.has_room([*short, *full]):
        log.warning("The limits do not pay a search among plans of %s.", words)
        return None
    for plan, arm in plans.items():
        runs.arms.setdefault(plan, (arm, False))
    earlier = set(runs.measured)
    runs.begin(f"short runs, {words}", short)
    ranked = rank(problem, runs.measure_all(zip(plans, short, strict=True)))
    if not ranked:
        return None
    plan = ranked[0].plan
    runs.begin(f"full run, {words}", full)
    (run,) = runs.measure_all([(plan, lengths.full(seed=seed))])
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

"""What measurements decide: the order of short runs, the finalists, and the verdict on full runs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from autopeft import statistics
from autopeft.engine.problem import SearchProblem
from autopeft.engine.study import Trials
from autopeft.errors import TrainingError
from autopeft.types import FullRun, Measurement, Plan, SizeStep, Verdict

_CLEAR = 2.0  # standard errors by which a metric overrules the loss; on the tables 0.25 to 3 give the same
_ABOVE_BUDGET = "{0} is returned, since {1} trains more parameters than the budget allows."
_MARGIN = 0.01  # one point, or one percent of a loss

Finished = Mapping[Plan, Sequence[Measurement]]


def rank(problem: SearchProblem, measurements: Iterable[Measurement]) -> list[Measurement]:
    """Rank plans by loss; a metric that is two paired standard errors ahead overrules the loss.

    On a few hundred examples the metric orders close plans by chance; the loss, which uses the probability of
    every example, does so less. Plans without a loss are left out.
    """
    finished = [m for m in measurements if m.loss is not None]
    by_loss = sorted(finished, key=lambda m: (_loss(m), m.plan.trainable_params, m.plan.digest))
    ranked: list[Measurement] = []
    while by_loss:
        best = max(by_loss, key=lambda m: -math.inf if m.metric is None else problem.sign * m.metric)
        # The lowest loss that the best metric is not clearly ahead of comes next.
        following = next(m for m in by_loss if _ahead(problem, best, m) <= _CLEAR)
        ranked.append(following)
        by_loss.remove(following)
    return ranked


def _loss(measurement: Measurement) -> float:
    return math.inf if measurement.loss is None else measurement.loss


def _ahead(problem: SearchProblem, leader: Measurement, follower: Measurement) -> float:
    """Return by how many standard errors of their paired difference `leader` is ahead of `follower`.

    0 if a run has one score, or none.
    """
    pairs = zip(leader.example_scores, follower.example_scores, strict=True)
    gaps = [problem.sign * (a - b) for a, b in pairs]
    if len(gaps) < 2:
        return 0.0
    examples = statistics.Examples(groups=problem.examples(leader.fidelity.split).groups)
    mean, std_error = statistics.mean_and_std_error([gaps], span=None, examples=examples)
    return mean / std_error


def front(measured: Iterable[Measurement]) -> tuple[Measurement, ...]:
    """Return the Pareto front over parameters and loss, fewest parameters first; drop runs without a loss."""
    kept: list[Measurement] = []
    finished = [m for m in measured if m.loss is not None]
    for measurement in sorted(finished, key=lambda m: (m.plan.trainable_params, _loss(m), m.plan.digest)):
        if not kept or _loss(measurement) < _loss(kept[-1]):
            kept.append(measurement)
    return tuple(kept)


def choose_finalists(trials: Trials) -> tuple[list[Plan], list[Plan]]:
    """List the baselines and the challengers to train in full, best first.

    1. The first baseline is trained; the further ones replace it if it diverges.
    2. A challenger comes from the list. Short runs judge methods that start slowly too low, so it is the best
       plan of such a method, unless the best of all is two standard errors ahead of it; then it is that one.
    3. The best plan of the sampler is a challenger too if no listed plan has a lower loss. Of many short runs
       the lowest loss is low by chance, so it does not take the place of the listed one.
    4. With `--effort thorough` the best listed plan and the head alone are challengers as well.
    5. Listed plans without a short run (`--effort quick`, or time or cost ran out) rank last.

    Raises:
        TrainingError: Every baseline had a short run, and none finished it.
    """
    problem = trials.problem
    listed = [plan for _, _, plan in problem.listed]
    of_baseline = {plan for arm, _, plan in problem.listed if problem.is_baseline(arm)}
    ranked = rank(problem, trials.short.values())
    untried = [plan for plan in listed if plan not in trials.short]
    baselines = [plan for plan in (*(m.plan for m in ranked), *untried) if plan in of_baseline]
    if not baselines:
        failed = next(m for plan, m in trials.short.items() if plan in of_baseline)
        raise TrainingError(f"No learning rate of the baseline could be trained: {failed.reason}.")
    allowed = [m for m in ranked if problem.is_allowed(m.plan)]
    of_list = [m for m in allowed if m.plan in listed and m.plan not in of_baseline]
    sampled = [m for m in allowed if m.plan not in listed]
    slow = [m for m in of_list if problem.starts_slowly(m.plan) and _ahead(problem, of_list[0], m) <= _CLEAR]
    challengers = [m.plan for m in (*slow[:1], *of_list[:1])]
    if not challengers:
        challengers = [plan for plan in untried if plan not in of_baseline][:1]
    if not challengers and not sampled:  # the space has LoRA alone
        challengers = [plan for plan in baselines[1:] if plan.adapters != baselines[0].adapters][:1]
    if problem.effort != "thorough":
        challengers = challengers[:1]
    best_listed = min((_loss(m) for m in allowed if m.plan in listed), default=math.inf)
    if sampled and (not challengers or _loss(sampled[0]) < best_listed):
        challengers.append(sampled[0].plan)
    if problem.effort == "thorough" and problem.has_head and problem.head[1] not in baselines:
        challengers.append(problem.head[1])
    return baselines, list(dict.fromkeys(challengers))


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """What is returned, what it was compared with, and how each finished plan did on the confirm split."""

    best: Plan
    baseline: Plan
    challenger: Plan | None
    verdict: Verdict
    finished: Finished


def judge(trials: Trials, baseline: Plan, finished: Finished) -> Judgement:
    """Compare the best challenger with the baseline on all confirm rows, and choose which is returned.

    If the baseline exceeds the budget, the challenger is returned as `inconclusive`.

    Raises:
        TrainingError: The baseline exceeds the budget, and there is no challenger.
    """
    problem = trials.problem
    challengers = [plan for plan in finished if plan != baseline]
    challenger = max(challengers, key=lambda plan: _mean(problem, finished[plan]), default=None)
    difference = None
    if challenger is not None:
        difference = _difference(problem, finished[challenger], finished[baseline], len(challengers))
    margin = problem.spec.search.margin  # the difference that does not matter
    if margin is None:
        is_unbounded_loss = problem.metric.score_span is None and not problem.metric.greater_is_better
        margin = _MARGIN * abs(_mean(problem, finished[baseline])) if is_unbounded_loss else _MARGIN
    compared = (challenger or baseline, baseline)
    names = _name(trials, compared[0]), _name(trials, baseline)
    verdict = statistics.verdict(
        difference,
        names=names,
        params=(compared[0].trainable_params, baseline.trainable_params),
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
        best = challenger
        verdict = replace(verdict, label="inconclusive", sentence=_ABOVE_BUDGET.format(*names))
    return Judgement(best=best, baseline=baseline, challenger=challenger, verdict=verdict, finished=finished)


def _name(trials: Trials, plan: Plan) -> str:
    label = trials.arm(plan).label
    return {"head": "the head alone", "untrained": "the untrained model"}.get(label, label)


def _scores(problem: SearchProblem, runs: Sequence[Measurement]) -> list[list[float]]:
    """Return the scores (S, N) of a plan's S runs on N rows, with the sign that makes larger ones better."""
    return [[problem.sign * score for score in run.example_scores] for run in runs]


def _mean(problem: SearchProblem, runs: Sequence[Measurement]) -> float:
    return fmean(score for scores in _scores(problem, runs) for score in scores)


def _difference(
    problem: SearchProblem,
    challenger: Sequence[Measurement],
    baseline: Sequence[Measurement],
    n_challengers: int = 1,
) -> statistics.Difference:
    return statistics.paired_difference(
        _scores(problem, challenger),
        _scores(problem, baseline),
        span=problem.metric.score_span,
        examples=problem.examples("confirm"),
        n_challengers=n_challengers,
    )


def size_step(
    problem: SearchProblem, small: SearchProblem, judged: Judgement, run: Measurement, *, seconds: float
) -> SizeStep:
    """Compare the best plan of a smaller budget with the returned one: same seed, same confirm rows."""
    difference = _difference(problem, [run], judged.finished[judged.best][:1])
    assert run.metric is not None, "the run finished"
    return SizeStep(
        share=small.context.max_params / problem.context.max_params,
        max_trainable_params=small.context.max_params,
        plan=run.plan,
        arm=small.small_plans[replace(run.plan, head_factor=1.0)],
        metric_mean=run.metric,
        mean_difference=difference.mean,
        interval_95=(difference.low, difference.high),
        seconds=seconds,
    )


def full_runs(trials: Trials, judged: Judgement, finished: Finished) -> tuple[FullRun, ...]:
    """Average the runs of each plan in `finished`: best, baseline, challenger, then others by their arms."""
    names = {judged.best: "best"}
    names.setdefault(judged.baseline, "baseline")
    if judged.challenger is not None:
        names.setdefault(judged.challenger, "challenger")
    records = []
    for plan in [plan for plan in dict.fromkeys([*names, *finished]) if plan in finished]:
        of_plan = finished[plan]
        split = of_plan[0].fidelity.split
        table = [run.example_scores for run in of_plan]
        examples, span = trials.problem.examples(split), trials.problem.metric.score_span
        mean, std_error = statistics.mean_and_std_error(table, span=span, examples=examples)
        records.append(
            FullRun(
                name=names.get(plan, str(trials.arm(plan))),
                plan=plan,
                split=split,
                metric_mean=mean,
                metric_std_error=std_error,
                seeds=tuple(run.fidelity.seed for run in of_plan),
                metrics=tuple(map(fmean, table)),
                mean_loss=fmean(run.loss or 0.0 for run in of_plan),
                train_seconds=fmean(run.train_seconds_from_start for run in of_plan),
            )
        )
    return tuple(records)

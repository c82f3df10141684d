"""What measurements decide: the order of short runs, the finalists, and the verdict on full runs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from statistics import fmean

from autopeft import statistics
from autopeft.engine.problem import SearchProblem
from autopeft.engine.study import Trials
from autopeft.errors import TrainingError
from autopeft.plugins import slow_starters
from autopeft.types import FullRun, Measurement, Outcome, Plan, Verdict

_CLEAR = 2.0  # standard errors by which a metric overrules the loss; on the tables 0.25 to 3 give the same
_MARGIN = 0.01  # one point, or one percent of a loss

Finished = Mapping[Plan, Sequence[Measurement]]  # the full runs, or test runs, of each plan: one a seed


def rank(problem: SearchProblem, measurements: Iterable[Measurement]) -> list[Measurement]:
    """Rank plans by loss; a metric that is two paired standard errors ahead overrules the loss.

    On a few hundred examples the metric orders close plans by chance; the loss, which uses the probability of
    every example, does so less. Plans without a loss are left out.
    """
    finished = [m for m in measurements if m.loss is not None]
    by_loss = sorted(finished, key=lambda m: (_loss(m), m.plan.trainable_params, m.plan.digest))
    ranked: list[Measurement] = []
    while by_loss:
        leader = max(by_loss, key=lambda m: -math.inf if m.metric is None else problem.sign * m.metric)
        # The lowest loss that the best metric is not clearly ahead of comes next.
        ranked.append(next(m for m in by_loss if not _leads(problem, leader, m)))
        by_loss.remove(ranked[-1])
    return ranked


def _loss(measurement: Measurement) -> float:
    return math.inf if measurement.loss is None else measurement.loss


def _leads(problem: SearchProblem, leader: Measurement, follower: Measurement) -> bool:
    """Whether the leader's metric is two standard errors of their paired difference ahead."""
    ahead, behind = leader.example_scores, follower.example_scores
    gaps = [problem.sign * (a - b) for a, b in zip(ahead, behind, strict=True)]
    if len(gaps) < 2:
        return False
    examples = statistics.Examples(groups=problem.examples(leader.fidelity.split).groups)
    mean, std_error = statistics.mean_and_std_error([gaps], span=None, examples=examples)
    return mean / std_error > _CLEAR


def choose_finalists(trials: Trials) -> tuple[list[Plan], list[Plan]]:
    """List the baselines and the challengers to train in full, best first.

    1. The first baseline is trained; the further ones replace it if it diverges.
    2. A challenger comes from the list. Short runs judge methods that start slowly too low, so it is the best
       plan of such a method, unless the best of all is clearly ahead of it; then it is that one.
    3. The best plan of the sampler is a challenger too if no listed plan has a lower loss. Of many short runs
       the lowest loss is low by chance, so it does not take the place of the listed one.
    4. With `--effort thorough` the best listed plan and the head alone are challengers as well.
    5. Listed plans without a short run (`--effort quick`, or time or cost ran out) rank last.
    """
    problem, baseline_plans = trials.problem, trials.problem.baselines
    listed = [plan for _, _, plan in problem.listed]
    ranked = rank(problem, trials.short_runs.values())
    unmeasured = [plan for plan in listed if plan not in trials.short_runs]
    baselines = [plan for plan in (*(m.plan for m in ranked), *unmeasured) if plan in baseline_plans]
    if not baselines:
        reason = trials.short_runs[baseline_plans[0]].reason
        raise TrainingError(f"No learning rate of the baseline could be trained: {reason}.")
    allowed = [m for m in ranked if problem.is_allowed(m.plan)]
    listed_runs = [m for m in allowed if m.plan in listed and m.plan not in baseline_plans]
    sampled_runs = [m for m in allowed if m.plan not in listed]
    slow_methods = slow_starters(problem.context.methods)
    slow_runs = [
        m
        for m in listed_runs
        if m.plan.lead_method in slow_methods and not _leads(problem, listed_runs[0], m)
    ]
    challengers = [m.plan for m in (*slow_runs[:1], *listed_runs[:1])]
    if not challengers:
        challengers = [plan for plan in unmeasured if plan not in baseline_plans][:1]
    if not challengers and not sampled_runs:  # the space has LoRA alone
        challengers = [plan for plan in baselines[1:] if plan.adapters != baselines[0].adapters][:1]
    if not problem.is_thorough:
        challengers = challengers[:1]
    best_listed = min((_loss(m) for m in allowed if m.plan in listed), default=math.inf)
    if sampled_runs and (not challengers or _loss(sampled_runs[0]) < best_listed):
        challengers.append(sampled_runs[0].plan)
    if problem.is_thorough and problem.has_head and problem.head[1] not in baselines:
        challengers.append(problem.head[1])
    return baselines, list(dict.fromkeys(challengers))


def judge(trials: Trials, baseline: Plan, finished: Finished) -> Outcome:
    """Compare the best challenger with the baseline on all confirm rows, and choose which is returned."""
    problem = trials.problem
    challengers = [plan for plan in finished if plan != baseline]
    challenger = max(challengers, key=lambda plan: _mean(problem, finished[plan]), default=None)
    verdict = _verdict(trials, challenger, baseline, finished)
    best = baseline if challenger is None or verdict.label == "default kept" else challenger
    if not problem.is_allowed(best):  # the user's baseline
        if challenger is None:
            raise TrainingError(
                "Your baseline exceeds the budget, and no plan within the budget finished a full run. Raise "
                "--budget, or search with --effort normal."
            )
        kept, refused = _name(trials, challenger), _name(trials, baseline)
        sentence = f"{kept} is returned, since {refused} trains more parameters than the budget allows."
        best, verdict = challenger, replace(verdict, label="inconclusive", sentence=sentence)
    return Outcome(
        proposals=tuple(trials.proposals),
        measurements=(),
        best=best,
        baseline=baseline,
        challenger=challenger,
        full_runs=summarize(trials, [best, baseline, challenger], finished),
        test=(),
        verdict=verdict,
    )


def _verdict(trials: Trials, challenger: Plan | None, baseline: Plan, finished: Finished) -> Verdict:
    problem, compared = trials.problem, challenger or baseline
    difference = None
    if challenger is not None:
        difference = compare(problem, finished[challenger], finished[baseline], n=len(finished) - 1)
    margin = problem.spec.search.margin  # the difference that does not matter
    if margin is None:
        has_unit = problem.metric.score_step is not None
        margin = _MARGIN if has_unit else _MARGIN * abs(_mean(problem, finished[baseline]))
    return statistics.verdict(
        difference,
        names=(_name(trials, compared), _name(trials, baseline)),
        params=(compared.trainable_params, baseline.trainable_params),
        margin=margin,
        metric=problem.metric,
    )


def _name(trials: Trials, plan: Plan) -> str:
    """Name a plan in a sentence: a listed one by its label, a proposed one by its methods."""
    arm, methods = trials.arm(plan), trials.problem.context.methods
    if arm.kind == "sampled":
        labels = [methods[adapter.method].label for adapter in plan.adapters]
        return f"the proposed {' and '.join(dict.fromkeys(labels))}"
    return {"head": "the head alone", "untrained": "the untrained model"}.get(arm.label, arm.label)


def _scores(problem: SearchProblem, runs: Sequence[Measurement]) -> list[list[float]]:
    """Return the scores (S, N) of a plan's S runs on N rows, with the sign that makes larger ones better."""
    return [[problem.sign * score for score in run.example_scores] for run in runs]


def _mean(problem: SearchProblem, runs: Sequence[Measurement]) -> float:
    return fmean(chain.from_iterable(_scores(problem, runs)))


def compare(
    problem: SearchProblem, challenger: Sequence[Measurement], baseline: Sequence[Measurement], *, n: int = 1
) -> statistics.Difference:
    """Compare the best of `n` challengers with the baseline: the same seeds, the same confirm rows."""
    tables = [_scores(problem, runs) for runs in (challenger, baseline)]
    examples = problem.examples("confirm")
    if examples.step is None and problem.metric.greater_is_better:  # a metric of the user
        low, high = min(map(min, chain(*tables))), max(map(max, chain(*tables)))
        examples = replace(examples, step=high - low or abs(high) or None)
    return statistics.paired_difference(
        *tables, span=problem.metric.score_span, examples=examples, n_challengers=n
    )


def summarize(trials: Trials, named: Sequence[Plan | None], finished: Finished) -> tuple[FullRun, ...]:
    """Average the runs of each plan in `finished`: best, baseline, challenger (`named`), then others."""
    names = dict(zip(reversed(named), ("challenger", "baseline", "best"), strict=True))
    return tuple(
        full_run(trials.problem, names.get(plan, str(trials.arm(plan))), finished[plan])
        for plan in dict.fromkeys([*named, *finished])
        if plan is not None and plan in finished
    )


def full_run(problem: SearchProblem, name: str, runs: Sequence[Measurement]) -> FullRun:
    """Average the runs of one plan on one split, one for each seed."""
    table, split = [run.example_scores for run in runs], runs[0].fidelity.split
    examples, span = problem.examples(split), problem.metric.score_span
    mean, std_error = statistics.mean_and_std_error(table, span=span, examples=examples)
    return FullRun(
        name=name,
        plan=runs[0].plan,
        split=split,
        metric_mean=mean,
        metric_std_error=std_error,
        seeds=tuple(run.fidelity.seed for run in runs),
        metrics=tuple(map(fmean, table)),
        mean_loss=fmean(run.loss or 0.0 for run in runs),
        train_seconds=fmean(run.train_seconds_from_start for run in runs),
    )

"""Finalists: which plans are trained in full, by the ranking of short runs."""

from __future__ import annotations

import math
from collections.abc import Iterable

from autopeft import evidence
from autopeft.engine.problem import SearchProblem
from autopeft.engine.study import Study
from autopeft.errors import TrainingError
from autopeft.records import Measurement, Plan

_CLEAR = 2.0  # standard errors by which a metric overrules the loss; on the tables 0.25 to 3 give the same


def choose_finalists(problem: SearchProblem, study: Study) -> tuple[list[Plan], list[Plan]]:
    """Baselines and rivals to train in full, each in the order in which they come.

    1. Of the baselines the first is trained; the others stand in if it diverges.
    2. The rival is the best plan of a method that starts slowly, unless another within the budget is clearly
       ahead; short runs judge such a method too low.
    3. With `--effort thorough` such a method takes no place: the best other rival is trained too, and so is
       the head alone.

    Plans of the list without a short run (`--effort quick`, or limits that pay few) come last.

    Raises:
        TrainingError: No baseline finished its short run.
    """
    ranked = rank(problem, study.short.values())
    is_baseline = {proposal.plan: problem.is_baseline(proposal.arm) for proposal in reversed(study.proposals)}
    untried = {plan: arm for arm, plan in problem.first_plans if plan not in study.short}
    baselines = [m.plan for m in ranked if is_baseline[m.plan]]
    baselines += [plan for plan, arm in untried.items() if problem.is_baseline(arm)]
    if not baselines:
        errors = [m.error for m in study.short.values() if is_baseline[m.plan] and m.error]
        raise TrainingError(f"No learning rate of the baseline could be trained: {errors[0]}")
    rivals = [m for m in ranked if not is_baseline[m.plan] and problem.is_allowed(m.plan)]
    slow = [m for m in rivals if problem.starts_slowly(m.plan) and _ahead(problem, rivals[0], m) <= _CLEAR]
    untried_rivals = [plan for plan in untried if plan not in baselines]
    # If the space has LoRA alone, the best of the other baselines is the rival.
    untried_rivals += [plan for plan in baselines[1:] if plan.adapters != baselines[0].adapters]
    finalists = [m.plan for m in (*slow[:1], *rivals[:1])] or untried_rivals[:1]
    if problem.effort != "thorough":
        finalists = finalists[:1]
    elif problem.has_head and problem.head[1] not in baselines:
        finalists.append(problem.head[1])
    finalists = list(dict.fromkeys(finalists))
    return baselines, finalists


def rank(problem: SearchProblem, measurements: Iterable[Measurement]) -> list[Measurement]:
    """Rank plans by loss; a metric that is two paired standard errors ahead overrules the loss.

    A few hundred examples order close plans by chance; the loss looks at the probability of every example and
    does not. Plans without a loss are left out.
    """
    finished = [m for m in measurements if m.loss is not None]
    by_loss = sorted(finished, key=lambda m: (m.loss, m.plan.trainable_params, m.plan.digest))
    ranked: list[Measurement] = []
    while by_loss:
        best = max(by_loss, key=lambda m: -math.inf if m.metric is None else problem.sign * m.metric)
        following = next(m for m in by_loss if m is best or _ahead(problem, best, m) <= _CLEAR)
        ranked.append(following)
        by_loss.remove(following)
    return ranked


def _ahead(problem: SearchProblem, leader: Measurement, follower: Measurement) -> float:
    """By how many standard errors of the paired difference over examples or groups `leader` is ahead.

    0 if either has no scores.
    """
    pairs = zip(leader.example_scores, follower.example_scores, strict=False)
    gaps = [problem.sign * (a - b) for a, b in pairs]
    if len(gaps) < 2 or len(leader.example_scores) != len(follower.example_scores):
        return 0.0
    examples = evidence.Examples(groups=problem.examples(leader.fidelity.split).groups)
    mean, std_error = evidence.mean_and_std_error([gaps], span=None, examples=examples)
    return mean / std_error


def front(measured: Iterable[Measurement]) -> list[Measurement]:
    """The Pareto front over parameters and loss, fewest parameters first."""
    kept: list[Measurement] = []
    finished = [m for m in measured if m.loss is not None]
    for measurement in sorted(finished, key=lambda m: (m.plan.trainable_params, m.loss, m.plan.digest)):
        if not kept or (measurement.loss or 0.0) < (kept[-1].loss or 0.0):
            kept.append(measurement)
    return kept

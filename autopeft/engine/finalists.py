"""Ranks short runs, and chooses the finalists: the plans that are trained in full."""

from __future__ import annotations

import math
from collections.abc import Iterable

from autopeft import statistics
from autopeft.engine.problem import SearchProblem
from autopeft.engine.study import Trials
from autopeft.errors import TrainingError
from autopeft.types import Measurement, Plan

_CLEAR = 2.0  # standard errors by which a metric overrules the loss; on the tables 0.25 to 3 give the same


def choose_finalists(problem: SearchProblem, trials: Trials) -> tuple[list[Plan], list[Plan]]:
    """List the baselines and the challengers to train in full, best first.

    1. The first baseline is trained; the further ones replace it if it diverges.
    2. Short runs judge methods that start slowly too low. So the best plan of such a method is the
       challenger, unless the best of all challengers is two standard errors ahead of it; then that one is.
    3. With `--effort thorough` there are up to three challengers: both of these, and the head alone.
    4. First plans without a short run (`--effort quick`, or time or cost ran out) rank last.

    Raises:
        TrainingError: Every baseline had a short run, and none finished it.
    """
    ranked = rank(problem, trials.short.values())
    is_baseline = {
        proposal.plan: problem.is_baseline(proposal.arm) for proposal in reversed(trials.proposals)
    }
    untried = {plan: arm for arm, plan in problem.first_plans if plan not in trials.short}
    baselines = [m.plan for m in ranked if is_baseline[m.plan]]
    baselines += [plan for plan, arm in untried.items() if problem.is_baseline(arm)]
    if not baselines:
        reason = next(m.reason for m in trials.short.values() if is_baseline[m.plan])
        raise TrainingError(f"No learning rate of the baseline could be trained: {reason}.")
    challengers = [m for m in ranked if not is_baseline[m.plan] and problem.is_allowed(m.plan)]
    slow = [
        m
        for m in challengers
        if problem.starts_slowly(m.plan) and _ahead(problem, challengers[0], m) <= _CLEAR
    ]
    untried_challengers = [plan for plan in untried if plan not in baselines]
    # If the space has LoRA alone, the best of the other baselines is the challenger.
    untried_challengers += [plan for plan in baselines[1:] if plan.adapters != baselines[0].adapters]
    finalists = [m.plan for m in (*slow[:1], *challengers[:1])] or untried_challengers[:1]
    if problem.effort != "thorough":
        finalists = finalists[:1]
    elif problem.has_head and problem.head[1] not in baselines:
        finalists.append(problem.head[1])
    finalists = list(dict.fromkeys(finalists))
    return baselines, finalists


def rank(problem: SearchProblem, measurements: Iterable[Measurement]) -> list[Measurement]:
    """Rank plans by loss; a metric that is two paired standard errors ahead overrules the loss.

    On a few hundred examples the metric orders close plans by chance; the loss, which uses the probability of
    every example, does so less. Plans without a loss are left out.
    """
    finished = [m for m in measurements if m.loss is not None]
    by_loss = sorted(finished, key=lambda m: (m.loss, m.plan.trainable_params, m.plan.digest))
    ranked: list[Measurement] = []
    while by_loss:
        best = max(by_loss, key=lambda m: -math.inf if m.metric is None else problem.sign * m.metric)
        # The lowest loss that the best metric is not clearly ahead of comes next.
        following = next(m for m in by_loss if _ahead(problem, best, m) <= _CLEAR)
        ranked.append(following)
        by_loss.remove(following)
    return ranked


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


def front(measured: Iterable[Measurement]) -> list[Measurement]:
    """Return the Pareto front over parameters and loss, fewest parameters first; drop runs without a loss."""
    kept: list[Measurement] = []
    finished = [m for m in measured if m.loss is not None]
    for measurement in sorted(finished, key=lambda m: (m.plan.trainable_params, m.loss, m.plan.digest)):
        if not kept or (measurement.loss or 0.0) < (kept[-1].loss or 0.0):
            kept.append(measurement)
    return kept

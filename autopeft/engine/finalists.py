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
    2. A challenger comes from the list. Short runs judge methods that start slowly too low, so it is the best
       plan of such a method, unless the best of all is two standard errors ahead of it; then it is that one.
    3. The best plan of the sampler is a challenger too if no listed plan has a lower loss. Of many short runs
       the lowest loss is low by chance, so it does not take the place of the listed one.
    4. With `--effort thorough` the best listed plan and the head alone are challengers as well.
    5. Listed plans without a short run (`--effort quick`, or time or cost ran out) rank last.

    Raises:
        TrainingError: Every baseline had a short run, and none finished it.
    """
    ranked = rank(problem, trials.short.values())
    listed = {plan: arm for arm, _, plan in problem.listed}
    untried = [plan for plan in listed if plan not in trials.short]
    baselines = [m.plan for m in ranked if m.plan in listed and problem.is_baseline(listed[m.plan])]
    baselines += [plan for plan in untried if problem.is_baseline(listed[plan])]
    if not baselines:
        failed = (
            m for m in trials.short.values() if m.plan in listed and problem.is_baseline(listed[m.plan])
        )
        raise TrainingError(f"No learning rate of the baseline could be trained: {next(failed).reason}.")
    challengers = [m for m in ranked if m.plan not in baselines and problem.is_allowed(m.plan)]
    of_list = [m for m in challengers if m.plan in listed]
    slow = [m for m in of_list if problem.starts_slowly(m.plan) and _ahead(problem, of_list[0], m) <= _CLEAR]
    finalists = [m.plan for m in (*slow[:1], *of_list[:1])]
    if not finalists:
        finalists = [plan for plan in untried if plan not in baselines][:1]
    if not finalists and not challengers:  # the space has LoRA alone
        finalists = [plan for plan in baselines[1:] if plan.adapters != baselines[0].adapters][:1]
    if problem.effort != "thorough":
        finalists = finalists[:1]
    sampled = [m for m in challengers if m.plan not in listed]
    in_race = [m for m in ranked if m.plan in listed and problem.is_allowed(m.plan)]
    if sampled and (not finalists or all(_loss(sampled[0]) < _loss(m) for m in in_race)):
        finalists.append(sampled[0].plan)
    if problem.effort == "thorough" and problem.has_head and problem.head[1] not in baselines:
        finalists.append(problem.head[1])
    return baselines, list(dict.fromkeys(finalists))


def _loss(measurement: Measurement) -> float:
    return math.inf if measurement.loss is None else measurement.loss


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
    for measurement in sorted(finished, key=lambda m: (m.plan.trainable_params, _loss(m), m.plan.digest)):
        if not kept or _loss(measurement) < _loss(kept[-1]):
            kept.append(measurement)
    return kept

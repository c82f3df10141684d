"""The queue: the plans that every search measures first, the most important first."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from statistics import geometric_mean

from autopeft.engine.problem import SearchProblem
from autopeft.records import Arm, Plan
from autopeft.space import (
    BASELINE_METHOD,
    Policy,
    baseline_policies,
    learning_rates,
    plan_of,
    usual_policies,
    within,
)

_MANY_TRIALS = 24  # from so many on, baselines and head are tried at three learning rates; chosen by hand
_FEW_RATES, _MANY_RATES = 2, 3
_BEFORE_HEADS = 3  # usual arms before the head alone at its further rates, beside a slow one; chosen by hand
_BY_SCORE = ", layers by score"
_USER_FACTORS = (1.0, 0.5, 2.0)  # on the learning rate of a user's plan; chosen by hand
# Positions in a method's range, in the logarithm, with the least mean loss above that of the best rate over
# recorded curves of 19 methods and models; two at a third and two thirds do worse than one in the middle
# (reports/LOG.md, 2026-11-26).
_CENTRAL = {1: (0.55,), 2: (0.45, 0.65), 3: (0.35, 0.5, 0.65)}

Enqueued = tuple[Arm, Policy | Plan]


def enqueued(problem: SearchProblem) -> tuple[Enqueued, ...]:
    """Baselines and the user's plans at several learning rates each, then usual arms at one.

    Every baseline has the first of its rates before one has the second. Usual arms start near the middle of
    their range of learning rates, LoRA in the layers of the highest score first, and last a method that
    starts slowly where full runs are brief; the remaining trials are sampled. The head alone comes after the
    baselines' first rates, and at its others after the first usual arms, which are more often the answer.
    Every plan of the user is in the queue: where the trials are few, it takes the place of what comes before
    it, but for the first baseline. Where even then the trials end before it, it follows them, and a
    warning names it.
    """
    trials = problem.spec.search.trials
    n_rates = _MANY_RATES if trials >= _MANY_TRIALS else _FEW_RATES
    policies = list[tuple[Arm, Policy]]()
    if problem.has_baseline:
        named = baseline_policies(problem.context, learning_rate=1.0, max_rank=problem.max_rank)
        policies = [(Arm(kind="baseline", label=name), policy) for name, policy in named.items()]
    lora_rates = central(*learning_rates(problem.space, BASELINE_METHOD, problem.context.methods), n_rates)
    head_rates = list(dict.fromkeys(spread(*problem.head_rates, n_rates)))
    # Around the plan's own rate, or over its method's range where it has none.
    user_rates = [
        tuple(plan.learning_rate * factor for factor in _USER_FACTORS[:n_rates])
        if plan.learning_rate > 0
        else central(*problem.rate_range(plan, arm), n_rates)
        for arm, plan in problem.user_plans
    ]
    head = Plan(adapters=(), learning_rate=0.0, trainable_params=0)
    queue: list[Enqueued] = []
    for index in range(n_rates):
        queue += [(arm, replace(policy, learning_rate=lora_rates[index])) for arm, policy in policies]
        for (arm, plan), rates in zip(problem.user_plans, user_rates, strict=True):
            queue.append((arm, replace(plan, learning_rate=rates[index])))
        if not index:
            queue.append((problem.without_adapters, replace(head, learning_rate=head_rates[0])))
    usual = list(_usual(problem))
    heads = [(problem.without_adapters, replace(head, learning_rate=rate)) for rate in head_rates[1:]]
    n_slow = sum(arm.methods[0] in problem.slow_methods for arm, _ in usual[: _BEFORE_HEADS + 1])
    n_before = _BEFORE_HEADS + n_slow
    queue += [*usual[:n_before], *heads, *usual[n_before:]]
    arms = [arm for arm, _ in problem.user_plans]
    if {arm for arm, _ in queue[:trials]} >= set(arms):
        return tuple(queue[:trials])
    places = [next(place for place, entry in enumerate(queue) if entry[0] == arm) for arm in arms]
    others = [entry for place, entry in enumerate(queue) if place not in places]
    n_others = max(1, trials - len(places))
    return (*others[:n_others], *(queue[place] for place in places))


def _usual(problem: SearchProblem) -> Iterator[Enqueued]:
    """The usual arms that the space can express, each near the middle of its range of learning rates.

    Where a method's best rate falls with the rank, its range is taken for that of rank 1.
    """
    space, methods = problem.space, problem.context.methods
    scored = problem.in_scored_layers
    usual = list(usual_policies(learning_rate=1.0, max_rank=problem.max_rank))
    if problem.schedule.is_brief:
        usual.sort(key=lambda policy: policy.method in problem.slow_methods)
    for policy in usual if scored is None else [scored, *usual]:
        names = [part.method for part in (policy, *policy.beside)]
        for arm in (arm for arm in space.arms if [name for name, _ in space.parts(arm)] == names):
            (rate,) = central(*learning_rates(space, arm, methods), 1)
            beside = tuple(replace(part, learning_rate=rate) for part in policy.beside)
            worded = within(replace(policy, learning_rate=rate, beside=beside), space, arm, methods)
            if worded is not None:
                method, (_, part) = methods[worded.method], space.parts(arm)[0]
                exponent: float = getattr(method, "rank_exponent", 0.0)
                # Higher ranks need a lower rate where the method has no scale to make up for them. A range of
                # rates that the search space sets is for all ranks.
                if exponent and part.learning_rate is None:
                    adapters = plan_of(worded, problem.context).adapters
                    ranks = [adapter.rank for adapter in adapters if adapter.method == worded.method]
                    lower = worded.learning_rate / geometric_mean(ranks or [1]) ** exponent
                    worded = replace(worded, learning_rate=max(lower, method.learning_rate_range[0]))
                label = f"{policy.arm.label}{_BY_SCORE if policy is scored else ''}"
                yield replace(policy.arm, kind="usual", label=label), worded
                break


def spread(low: float, high: float, n: int) -> tuple[float, ...]:
    """N learning rates inside a range, evenly spaced in the logarithm, ends left out."""
    step = math.log(high / low) / (n + 1)
    return tuple(low * math.exp(step * (index + 1)) for index in range(n))


def central(low: float, high: float, n: int) -> tuple[float, ...]:
    """One to three learning rates of a method in the part of its range where the best one is most likely.

    Example:
        >>> [round(rate, 4) for rate in central(1e-3, 1e-1, 2)]
        [0.0079, 0.02]
    """
    return tuple(low * (high / low) ** position for position in _CENTRAL[n])

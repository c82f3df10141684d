"""The queue: the plans that every search measures first, at several learning rates each."""

from __future__ import annotations

from dataclasses import replace

from autopeft.engine.problem import SearchProblem
from autopeft.engine.rates import spread
from autopeft.records import Arm, Plan
from autopeft.space import BASELINE_METHOD, Policy, baseline_policies, learning_rates, usual_policies

_QUEUE_SHARE = 0.45  # of the trials at most, so that half of the search's cost goes to sampled policies
_LEAST_ROOM = 5  # baseline and head at two rates each, and the greedy plan, in half of the trials
_MAX_RATES = 3  # learning rates of each arm
_USER_FACTORS = (1.0, 0.5, 2.0)  # on the learning rate of a user's plan; chosen by hand

Enqueued = tuple[Arm, Policy | Plan]


def enqueued(problem: SearchProblem) -> tuple[Enqueued, ...]:
    """Baselines, the user's plans, the head, the greedy plan, and usual arms as far as there is room.

    All arms get the same number of learning rates, but for the greedy plan, which takes the best rates of
    the baseline when its turn comes. The sampler gets the other trials, more than half of all.
    """
    trials = problem.first_trials
    room = max(int(_QUEUE_SHARE * trials), min(_LEAST_ROOM, trials // 2))
    policies = _baselines(problem) if problem.has_baseline else []
    n_rates = max(1, min(_MAX_RATES, (room - 1) // (len(policies) + len(problem.user_plans) + 1)))
    queue: list[Enqueued] = []
    for rate in spread(*_lora_rates(problem), n_rates):
        queue += [(arm, replace(policy, learning_rate=rate)) for arm, policy in policies]
    for arm, plan in problem.user_plans:
        rates = _user_rates(plan, arm, problem, n_rates=n_rates)
        queue += [(arm, replace(plan, learning_rate=rate)) for rate in rates]
    head = Plan(adapters=(), learning_rate=0.0, trainable_params=0)
    head_rates = dict.fromkeys(spread(*problem.head_rates, n_rates))
    queue += [(problem.without_adapters, replace(head, learning_rate=rate)) for rate in head_rates]
    if BASELINE_METHOD in problem.space.methods:
        queue += [_greedy(problem)] * max(1, min(n_rates - 1, room - len(queue)))
    for policy in usual_policies(learning_rate=1.0, max_rank=_max_rank(problem)):
        if policy.method in problem.space.methods and len(queue) + n_rates <= room:
            arm = replace(policy.arm, kind="usual")
            bounds = learning_rates(problem.space, policy.method, problem.context.methods)
            queue += [(arm, replace(policy, learning_rate=rate)) for rate in spread(*bounds, n_rates)]
    return tuple(queue[:trials])


def _lora_rates(problem: SearchProblem) -> tuple[float, float]:
    return learning_rates(problem.space, BASELINE_METHOD, problem.context.methods)


def _max_rank(problem: SearchProblem) -> int | None:
    """Cap on the ranks of LoRA: that of the space, which keeps to the user's limit too, or the limit."""
    part = problem.space.methods.get(BASELINE_METHOD)
    return problem.spec.limits.max_rank if part is None else part.max_rank


def _baselines(problem: SearchProblem) -> list[tuple[Arm, Policy]]:
    policies = baseline_policies(problem.context, learning_rate=1.0, max_rank=_max_rank(problem))
    return [(Arm(kind="baseline", label=name), policy) for name, policy in policies.items()]


def _user_rates(plan: Plan, arm: Arm, problem: SearchProblem, *, n_rates: int) -> tuple[float, ...]:
    """Rates around the plan's own, or over its method's range where it has none."""
    if plan.learning_rate > 0:
        return tuple(plan.learning_rate * factor for factor in _USER_FACTORS[:n_rates])
    return spread(*problem.rate_range(plan, arm), n_rates)


def _greedy(problem: SearchProblem) -> Enqueued:
    """LoRA with its ranks by score per parameter; the rate counts where no baseline has finished."""
    (rate,) = spread(*_lora_rates(problem), 1)
    policy = Policy(method=BASELINE_METHOD, exponent=1.0, max_rank=_max_rank(problem), learning_rate=rate)
    return Arm(kind="greedy", label=f"greedy by {problem.spec.search.score}"), policy

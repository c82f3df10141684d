"""Plans that no other beats on both loss and parameters, and limits that a measured plan may break."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from autopeft.engine.ledger import Ledger, SearchProblem, by_loss
from autopeft.records import Measurement, Plan
from autopeft.space import violations

_BYTES = 4  # of a saved number: adapters are trained and saved in fp32


def front(measured: Iterable[Measurement]) -> list[Measurement]:
    """The Pareto front over parameters and loss, fewest parameters first.

    Example:
        >>> front([])
        []
    """
    kept: list[Measurement] = []
    finished = (m for m in measured if m.loss is not None)
    for measurement in sorted(finished, key=lambda m: (m.plan.trainable_params, by_loss(m))):
        if not kept or by_loss(measurement)[0] < by_loss(kept[-1])[0]:
            kept.append(measurement)
    return kept


def thinned(kept: list[Measurement], n: int) -> list[Measurement]:
    """At most so many of a front, spread evenly over it, its ends among them."""
    if len(kept) <= n:
        return kept
    if n == 1:
        return kept[-1:]
    places = {round(index * (len(kept) - 1) / (n - 1)) for index in range(n)}
    return [kept[place] for place in sorted(places)]


def excess(problem: SearchProblem, ledger: Ledger, measurement: Measurement) -> Mapping[str, float]:
    """By how much a measured plan breaks each limit: 0 or less within it, 1.0 at twice of it.

    A step is timed against those of plain LoRA that were measured in this run.
    """
    plan, n_steps = measurement.plan, measurement.trained_steps
    if measurement.loss is None or not n_steps:
        return {}
    own = measurement.train_seconds / n_steps
    return violations(
        problem.spec.limits,
        peak_bytes=measurement.peak_bytes,
        seconds_per_step=own,
        lora_seconds_per_step=_lora_seconds(ledger) or own or 1.0,
        adapter_bytes=_BYTES * plan.trainable_params,
    )


def is_allowed(problem: SearchProblem, ledger: Ledger, measurement: Measurement) -> bool:
    """Whether a plan keeps to budget and limits; one that the user gave need not, and cannot win."""
    keeps_limits = all(value <= 0 for value in excess(problem, ledger, measurement).values())
    return keeps_limits and is_affordable(measurement.plan, problem)


def is_affordable(plan: Plan, problem: SearchProblem) -> bool:
    """Whether a plan keeps to the budget."""
    return plan.trainable_params <= problem.context.max_params


def _lora_seconds(ledger: Ledger) -> float | None:
    """Mean seconds of a step of plain LoRA, None before there was one."""
    seconds = steps = 0.0
    for measurement in ledger.measured.values():
        adapters = measurement.plan.adapters
        if adapters and all(own.method == "lora" and not own.options for own in adapters):
            seconds += measurement.train_seconds
            steps += measurement.trained_steps
    return seconds / steps if steps and math.isfinite(seconds) and seconds else None

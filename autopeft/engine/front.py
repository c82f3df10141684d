"""Plans that no other beats on both loss and parameters, and limits that a measured plan may break."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from autopeft.engine.ledger import Ledger
from autopeft.engine.problem import SearchProblem
from autopeft.engine.ranking import by_loss
from autopeft.records import FLOAT32_BYTES, Measurement
from autopeft.space import BASELINE_METHOD, violations


def front(measured: Iterable[Measurement]) -> list[Measurement]:
    """The Pareto front over parameters and loss, fewest parameters first."""
    kept: list[Measurement] = []
    finished = (m for m in measured if m.loss is not None)
    for measurement in sorted(finished, key=lambda m: (m.plan.trainable_params, by_loss(m))):
        if not kept or by_loss(measurement)[0] < by_loss(kept[-1])[0]:
            kept.append(measurement)
    return kept


def excess(problem: SearchProblem, ledger: Ledger, measurement: Measurement) -> Mapping[str, float]:
    """Limit -> by how much a measured plan breaks it: at most 0 within the limit, 1.0 at twice the limit.

    The seconds of a step are compared with the steps of plain LoRA in this run.
    """
    if measurement.loss is None or not measurement.trained_steps:
        return {}
    seconds = measurement.train_seconds / measurement.trained_steps
    return violations(
        problem.spec.limits,
        peak_bytes=measurement.peak_bytes,
        seconds_per_step=seconds,
        lora_seconds_per_step=_lora_seconds(ledger) or seconds or 1.0,
        adapter_bytes=FLOAT32_BYTES * measurement.plan.trainable_params,
    )


def is_allowed(problem: SearchProblem, ledger: Ledger, measurement: Measurement) -> bool:
    """Whether a plan keeps to budget and limits, which a plan that the user brought may break."""
    is_affordable = measurement.plan.trainable_params <= problem.context.max_params
    return is_affordable and all(value <= 0 for value in excess(problem, ledger, measurement).values())


def _lora_seconds(ledger: Ledger) -> float | None:
    """Mean seconds of a step of plain LoRA; None before there was one."""
    seconds = steps = 0.0
    for measurement in ledger.measured.values():
        if measurement.plan.method_options == {(BASELINE_METHOD, ())}:
            seconds += measurement.train_seconds
            steps += measurement.trained_steps
    return seconds / steps if steps and math.isfinite(seconds) and seconds else None

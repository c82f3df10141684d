"""The second rung: which plans go on, and what their losses say."""

from __future__ import annotations

import logging

from autopeft.engine.ledger import Ledger, Question, by_loss, first_error
from autopeft.engine.propose import BASELINE_ARM
from autopeft.errors import TrainingError
from autopeft.evidence import mean_and_std_error
from autopeft.records import Fidelity, Measurement, Plan

_WAVE = 4  # measured between two looks at the clock; fixed, so that the number of workers changes nothing
_N_BEST = 3  # by loss, baselines and head apart
_N_BASELINES = 2  # learning rates of the baseline
MAX_PROMOTED = _N_BEST + _N_BASELINES + 3  # and a small one, the head alone, a sentinel
_SMALL_SHARE = 0.25  # of the budget: the best plan below it goes on too, as a smallest equivalent plan

Measured = dict[Plan, Measurement]

_SMALLEST_SHARE = 0.5  # of the incumbent's parameters; to save less is not worth a confirmation

log = logging.getLogger(__name__)


def promote(question: Question, ledger: Ledger, first: Measured) -> Measured:
    """Measure the plans that the first rung leaves at the second one.

    Raises:
        TrainingError: The first rung left none.
    """
    plans = promoted(question, ledger, first)
    schedule = question.schedule
    fidelity = schedule.fidelity("search", steps=schedule.rung_steps[1], seed=question.seed)
    ledger.progress.phase("rung 2", len(plans))
    ledger.plan_ahead(fidelity, n_measurements=len(plans))
    seen: Measured = {}
    for start in range(0, len(plans), _WAVE):
        wave = plans[start : start + _WAVE]
        seconds = len(wave) * ledger.estimate(fidelity)
        if start and not ledger.has_time_for(seconds=seconds, reserve=ledger.confirm_reserve(question)):
            log.warning("Time is short: %d of %d plans reach the second rung.", start, len(plans))
            break
        ledger.require_time()
        results = ledger.measure_all([(plan, fidelity) for plan in wave])
        seen |= dict(zip(wave, results, strict=True))
    return seen | _spare_baselines(question, ledger, first, seen, fidelity)


def _spare_baselines(
    question: Question, ledger: Ledger, first: Measured, second: Measured, fidelity: Fidelity
) -> Measured:
    """The baseline's next rates, one by one, where those that went on have all diverged."""
    tried: Measured = {}
    ranked = sorted((m for m in first.values() if m.loss is not None), key=by_loss)
    spare = [m.plan for m in ranked if is_baseline(m.plan, question, ledger) and m.plan not in second]
    while spare and not any(
        m.loss is not None and is_baseline(plan, question, ledger) for plan, m in (second | tried).items()
    ):
        plan = spare.pop(0)
        tried[plan] = ledger.measure_all([(plan, fidelity)])[0]
    return tried


def promoted(question: Question, ledger: Ledger, first: Measured) -> list[Plan]:
    """Which plans go on, the most important first, since time may run short.

    The baseline's best learning rates, the best other plans, the best small one, the head
    alone, and one sentinel from the middle of the rest, so that the rank correlation
    between the rungs is not measured on survivors alone.
    """
    ranked = sorted((m for m in first.values() if m.loss is not None), key=by_loss)
    if not ranked:
        raise TrainingError(
            f"None of {len(first)} plans could be trained; the first error was: {first_error(first)}"
        )
    baselines = [m.plan for m in ranked if is_baseline(m.plan, question, ledger)]
    heads = [m.plan for m in ranked if not m.plan.adapters]
    others = [m.plan for m in ranked if m.plan.adapters and m.plan not in baselines]
    small = [plan for plan in others if plan.trainable_params <= _SMALL_SHARE * question.ground.max_params]
    chosen = [*baselines[:1], *others[:_N_BEST], *baselines[1:_N_BASELINES], *small[:1], *heads[:1]]
    rest = [plan for plan in others if plan not in chosen]
    return list(dict.fromkeys([*chosen, *rest[len(rest) // 2 :][:1]]))


def choose(question: Question, ledger: Ledger, second: Measured) -> tuple[Plan, Plan, Plan]:
    """Incumbent, baseline, and the candidate for the smallest equivalent plan, all by the second rung.

    The candidate has the fewest parameters among the plans with at most half of the incumbent's
    whose metric is within the margin and two standard errors of the incumbent's; where there is
    none it is the incumbent. Whether it holds, confirmation says.

    Raises:
        TrainingError: No learning rate of the baseline could be trained.
    """
    ranked = sorted((m for m in second.values() if m.loss is not None), key=by_loss)
    baselines = [m.plan for m in ranked if is_baseline(m.plan, question, ledger)]
    if not baselines:
        failed = {m.plan: m for m in ledger.measured.values() if is_baseline(m.plan, question, ledger)}
        raise TrainingError(f"No learning rate of the baseline could be trained: {first_error(failed)}")
    incumbent = ranked[0]
    _, std_error = mean_and_std_error([incumbent.example_scores])
    floor = question.sign * (incumbent.metric or 0.0) - question.spec.confirm.margin - 2 * std_error
    most = _SMALLEST_SHARE * incumbent.plan.trainable_params
    small = [
        m for m in ranked if m.plan.trainable_params <= most and question.sign * (m.metric or 0.0) >= floor
    ]
    smallest = min(small, key=lambda m: (m.plan.trainable_params, by_loss(m)), default=incumbent)
    return incumbent.plan, baselines[0], smallest.plan


def is_baseline(plan: Plan, question: Question, ledger: Ledger) -> bool:
    """Whether a plan is one of the baselines (the head alone, where no LoRA fits the budget)."""
    if not question.has_baseline:
        return not plan.adapters
    return ledger.arms.get(plan, "").startswith(BASELINE_ARM)

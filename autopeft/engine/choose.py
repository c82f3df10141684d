"""After the rungs: incumbent, baseline and the smallest candidate, and their learning rates tuned again."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

from autopeft.engine.finalists import SMALLEST_SHARE
from autopeft.engine.front import is_allowed
from autopeft.engine.ledger import Ledger, Measured, first_error, is_baseline
from autopeft.engine.problem import SearchProblem
from autopeft.engine.ranking import by_loss, first_by_metric, may_be_as_good, ranked_by_loss
from autopeft.engine.stopping import has_room
from autopeft.engine.telling import StudyLog
from autopeft.errors import SiteError, TrainingError
from autopeft.records import Arm, Measurement, Plan, rate_position

_MARGIN = 0.01  # one point, or one percent of a loss
_UNLEARNED = 0.98  # of the first rung's loss, above which the last rung has learned nothing; chosen by hand
_TIED = 1.01  # times the lowest loss, within which plans that learned nothing are tied; chosen by hand
_LOWER = 1.8  # divisor of a finalist's rate at the last rung: short rungs favour high rates
_MAX_LOWERED = 2  # times, as long as it helps; once where the last rung is half of a full run or more

log = logging.getLogger(__name__)


def with_margin(problem: SearchProblem, ledger: Ledger, last: Measured) -> SearchProblem:
    """The problem with the margin that the user gave, or 0.01, or 1 % of the baseline's loss.

    The third holds where less is better and scores have no bounds: a hundredth is much of some losses and
    little of others.
    """
    margin = problem.spec.confirm.margin
    if margin is None:
        baselines = (m for m in ranked_by_loss(last.values()) if is_baseline(m.plan, problem, ledger))
        metric = next((m.metric for m in baselines), None)
        is_unbounded_loss = problem.metric.score_span is None and not problem.metric.greater_is_better
        margin = _MARGIN * abs(metric) if is_unbounded_loss and metric else _MARGIN
    return replace(problem, margin=margin)


def choose(problem: SearchProblem, ledger: Ledger, last: Measured) -> tuple[Plan, Plan, Plan]:
    """Incumbent, baseline, and the candidate for the smallest equivalent plan, all by the last rung.

    Incumbent and baseline are the best by the metric, and by the loss where the metric cannot tell. Where
    nothing was learned yet, it is the one with the lowest learning rate among those of about the lowest loss:
    noise orders them, and a rate that is too high shows in full runs alone. The candidate has the fewest
    parameters among the plans with at most half of the incumbent's that may be as good: on the same examples,
    the one-sided 95 % bound of what they lose is not beyond the margin. Where there is none it is the
    incumbent. Confirmation says whether the candidate holds; without one it is the incumbent, as nothing
    supports another. Where the objective is `params` the incumbent is the candidate.

    Raises:
        TrainingError: No learning rate of the baseline could be trained.
        SiteError: No plan keeps to the limits.
    """
    finished = ranked_by_loss(last.values())
    ranked = [m for m in finished if is_allowed(problem, ledger, m)]
    baselines = [m for m in finished if is_baseline(m.plan, problem, ledger)]
    if not ranked and baselines:
        raise SiteError(
            f"None of {len(last)} plans at the last rung keeps to the limits; raise or drop one of them."
        )
    if not baselines:
        failed = [m for m in ledger.measured.values() if is_baseline(m.plan, problem, ledger)]
        raise TrainingError(f"No learning rate of the baseline could be trained: {first_error(failed)}")
    incumbent = _leading(problem, ledger, ranked)
    small = _small_ones(problem, ranked, incumbent)
    smallest = min(small, key=lambda m: (m.plan.trainable_params, by_loss(m)), default=incumbent)
    if problem.spec.search.objective == "params":
        incumbent = smallest
    elif problem.spec.confirm.fidelity == "none":
        smallest = incumbent
    return incumbent.plan, _leading(problem, ledger, baselines).plan, smallest.plan


def _leading(problem: SearchProblem, ledger: Ledger, ranked: Sequence[Measurement]) -> Measurement:
    """The plan that goes on among measurements of the last rung, which are sorted by loss.

    Where the last rung's lowest loss is about that of the first rung, nothing was learned: plans with about
    the lowest loss are tied, and the one with the lowest learning rate in its range goes on.
    """
    lowest, first = ranked[0].loss, ranked_by_loss(ledger.at(problem.rung(0)).values())
    before = next((m.loss for m in first if m.plan.adapters), None)
    if not problem.schedule.last or not before or not lowest or lowest <= _UNLEARNED * before:
        return first_by_metric(problem, ranked)
    tied = [m for m in ranked if m.plan.adapters and m.loss is not None and m.loss <= _TIED * lowest]

    def position(measurement: Measurement) -> float:
        plan = measurement.plan
        return rate_position(plan.learning_rate, problem.rate_range(plan, ledger.arms[plan])) or 0.0

    return min(tied, key=lambda m: (position(m), by_loss(m)), default=ranked[0])


def _small_ones(
    problem: SearchProblem, ranked: Sequence[Measurement], incumbent: Measurement
) -> list[Measurement]:
    """Those that are small and as good as the incumbent; none where the metric was not measured."""
    most = SMALLEST_SHARE * incumbent.plan.trainable_params
    small = [m for m in ranked if m.plan.trainable_params <= most]
    return [m for m in small if may_be_as_good(problem, m, incumbent)]


def retune(problem: SearchProblem, study_log: StudyLog, last: Measured) -> Measured:
    """The last rung, with incumbent and baseline at lower rates too, as long as that helps.

    Both get the same tries. Short runs prefer higher learning rates than full ones do, and a rung of a tenth
    of a run still does.
    """
    if not problem.schedule.last:
        return last
    ledger = study_log.ledger
    finalists = dict.fromkeys(choose(problem, ledger, last)[:2])
    ledger.progress.phase("rates", len(finalists))
    fidelity = problem.rung(problem.schedule.last)
    n_times = _MAX_LOWERED if 2 * fidelity.train_steps < problem.schedule.full_steps else 1
    measured = dict(last)
    for plan in finalists:
        arm = ledger.arms[plan]
        for _ in range(n_times):
            lower = _at_lower_rate(plan, problem, measured, arm=arm)
            if lower is None:
                break
            if not has_room(problem, ledger, n_plans=1, index=problem.schedule.last, is_new=True):
                log.info("The rate of plan %s is not tuned again: that cannot be paid.", plan.digest)
                break
            measured[lower] = study_log.measure_extra(arm, lower, source="retuned", fidelity=fidelity)
    ledger.release({*measured} - {*last})
    return measured


def _at_lower_rate(plan: Plan, problem: SearchProblem, measured: Measured, *, arm: Arm) -> Plan | None:
    """The plan below its best learning rate; None where such a rate is known or far below the range.

    A range that the search space sets is kept to.
    """
    tried = [m for m in measured.values() if m.plan.adapters == plan.adapters]
    best = min(tried, key=by_loss).plan
    rate = best.learning_rate / _LOWER
    is_known = any(m.plan.learning_rate < 0.9 * best.learning_rate for m in tried)
    lowest = problem.rate_range(plan, arm)[0] / (1.0 if problem.has_set_rates(plan, arm) else _LOWER)
    is_too_low = rate < lowest
    return None if is_known or is_too_low else replace(best, learning_rate=rate)

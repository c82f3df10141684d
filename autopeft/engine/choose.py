"""After the rungs: incumbent, baseline and the smallest candidate, and their learning rates tuned again."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

from autopeft.engine.finalists import SMALLEST_SHARE, Chosen
from autopeft.engine.ledger import Ledger, Measured, first_error
from autopeft.engine.problem import SearchProblem
from autopeft.engine.ranking import (
    best_by_metric,
    by_loss,
    first_by_metric,
    is_allowed,
    is_clearly_better,
    is_far_behind,
    may_be_as_good,
    ranked_by_loss,
)
from autopeft.engine.stopping import has_room, has_time_to_confirm
from autopeft.engine.study_log import StudyLog
from autopeft.errors import TrainingError
from autopeft.records import Arm, Measurement, Plan, rate_position

_MARGIN = 0.01  # one point, or one percent of a loss
UNLEARNED = 0.98  # of the first rung's loss, above which a longer run has learned nothing; chosen by hand
_TIED = 1.01  # times the lowest loss, within which plans that learned nothing are tied; chosen by hand
_NEAR = 1.03  # times the loss of the best plan, within which one of half the size is near; chosen by hand
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
        baselines = (m for m in ranked_by_loss(last.values()) if ledger.is_baseline(m.plan))
        metric = next((m.metric for m in baselines), None)
        is_unbounded_loss = problem.metric.score_span is None and not problem.metric.greater_is_better
        margin = _MARGIN * abs(metric) if is_unbounded_loss and metric else _MARGIN
    return replace(problem, margin=margin)


def choose(problem: SearchProblem, ledger: Ledger, last: Measured) -> Chosen:
    """Incumbent, baseline, and the candidate for the smallest equivalent plan, all by the last rung.

    Incumbent and baseline are the best by the metric, and by the loss where the metric cannot tell. A plan of
    at most half the parameters that lost next to nothing against a best rival is the incumbent instead. Where
    nothing was learned yet, noise orders plans of about the lowest loss: a baseline goes before others, and
    the lowest learning rate before higher ones, since a rate that is too high shows in full runs alone. The
    head alone is chosen only where full runs or long ones tell of it: it learns faster than adapters and
    stops earlier, so that short runs flatter it. Where a baseline leads, the confirmation would have no rival
    to compare: the best plan of a method that starts slowly is the incumbent then, if it is not far behind.
    The candidate below is still one that may be as good as the leading baseline.

    The candidate has the fewest parameters among the plans with at most half of the incumbent's that may be
    as good: on the same examples, the one-sided 95 % bound of what they lose is not beyond the margin. Where
    there is none it is the incumbent. Confirmation says whether the candidate holds; without one it is the
    incumbent, as nothing supports another.

    Raises:
        TrainingError: No learning rate of the baseline could be trained.
    """
    finished = ranked_by_loss(last.values())
    ranked = [m for m in finished if is_allowed(problem, m)]
    baselines = [m for m in finished if ledger.is_baseline(m.plan)]
    if not baselines:
        failed = [m for m in ledger.measured.values() if ledger.is_baseline(m.plan)]
        raise TrainingError(f"No learning rate of the baseline could be trained: {first_error(failed)}")
    leading = by_merit(problem, ledger, _comparable(problem, ledger, ranked))[0]
    incumbent = _thriftier(problem, ledger, ranked, leading)
    smallest = smallest_candidate(problem, ranked, incumbent)
    if problem.spec.confirm.fidelity == "none":
        smallest = incumbent
    if ledger.is_baseline(incumbent.plan):
        rival = _slow_rival(problem, ledger, ranked, incumbent)
        is_small = smallest.plan.trainable_params <= SMALLEST_SHARE * rival.plan.trainable_params
        return Chosen(rival.plan, incumbent.plan, (smallest if is_small else rival).plan)
    baseline = by_merit(problem, ledger, baselines)[0]
    return Chosen(incumbent.plan, baseline.plan, smallest.plan)


def _slow_rival(
    problem: SearchProblem, ledger: Ledger, ranked: Sequence[Measurement], baseline: Measurement
) -> Measurement:
    """The best plan of a method that starts slowly, to compare with a leading baseline; else the baseline.

    A plan that is far behind is not compared; nor is any where confirming runs are hardly longer than the
    last rung, or where the time is too short for them.
    """
    if problem.spec.confirm.fidelity == "none" or not problem.schedule.has_longer_confirmation:
        return baseline

    def step_seconds(run: Measurement) -> float:
        return run.train_seconds / run.trained_steps if run.trained_steps else 0.0

    for rival in ranked:
        if not problem.starts_slowly(rival.plan) or is_far_behind(problem, rival, baseline):
            continue
        # The least confirming seeds of both have to fit, the rival at the pace of its last run.
        slower = max(0.0, step_seconds(rival) - step_seconds(baseline)) * problem.schedule.confirm_steps
        seconds = problem.least_seeds * slower + ledger.report_seconds()
        if has_time_to_confirm(problem, ledger, [rival.plan, baseline.plan], beside=seconds):
            return rival
    return baseline


def _comparable(
    problem: SearchProblem, ledger: Ledger, ranked: Sequence[Measurement]
) -> Sequence[Measurement]:
    if _tells_of_head(problem):
        return ranked
    return [m for m in ranked if m.plan.adapters or ledger.is_baseline(m.plan)] or ranked


def _tells_of_head(problem: SearchProblem) -> bool:
    return problem.schedule.has_long_last or problem.spec.confirm.fidelity == "full"


def by_merit(problem: SearchProblem, ledger: Ledger, ranked: Sequence[Measurement]) -> list[Measurement]:
    """Measurements of the last rung, which are sorted by loss, in the order in which they go on.

    The best by the metric first, as far as it can tell. Where neither the lowest loss nor the best metric is
    clearly better than at the first rung, nothing was learned: those of about the lowest loss come first, as
    `choose` says.
    """
    if has_learned(problem, ledger, ranked):
        first = first_by_metric(problem, ranked)
        return [first, *(m for m in ranked if m is not first)]
    lowest = ranked[0].loss or 0.0
    tied = [m for m in ranked if m.plan.adapters and m.loss is not None and m.loss <= _TIED * lowest]

    def caution(measurement: Measurement) -> tuple[bool, float]:
        plan = measurement.plan
        position = rate_position(plan.learning_rate, problem.rate_range(plan, ledger.arms[plan]))
        return not ledger.is_baseline(plan), position or 0.0

    return [*sorted(tied, key=caution), *(m for m in ranked if m not in tied)]


def _thriftier(
    problem: SearchProblem, ledger: Ledger, ranked: Sequence[Measurement], first: Measurement
) -> Measurement:
    """A plan of at most half the parameters of the first that loses next to nothing to it, else the first.

    Next to nothing are 3 % of the loss and, of the metric on the same examples, the margin. To be as good as
    a baseline of the same size is worth nothing; to be so with half its parameters is. A baseline that leads
    stays: where no rival is compared with it, the cost saved pays full runs of baselines.
    """
    if (
        ledger.is_baseline(first.plan)
        or not has_learned(problem, ledger, ranked)
        or first.loss is None
        or first.metric is None
    ):
        return first
    most = SMALLEST_SHARE * first.plan.trainable_params
    small = (m for m in ranked if m.plan.adapters and m.plan.trainable_params <= most)
    near = (m for m in small if m.loss is not None and m.loss <= _NEAR * first.loss and m.metric is not None)
    good = (m for m in near if problem.sign * ((m.metric or 0.0) - first.metric) >= -problem.margin)
    return next(good, first)


def has_learned(problem: SearchProblem, ledger: Ledger, ranked: Sequence[Measurement]) -> bool:
    """Whether the lowest loss or the best metric is clearly better than at the first rung.

    An F1 may rise from 0 while the loss over all labels falls by a percent. A metric without bounds is such a
    loss itself, and tells no more.
    """
    first = [m for m in ranked_by_loss(ledger.at(problem.rung(0)).values()) if m.plan.adapters]
    if not first or not first[0].loss or not ranked[0].loss:
        return True
    if ranked[0].loss <= UNLEARNED * first[0].loss:
        return True
    has_own_scores = problem.metric.score_step is not None
    return has_own_scores and is_clearly_better(
        problem, best_by_metric(problem, ranked), best_by_metric(problem, first)
    )


def of_order(problem: SearchProblem, ledger: Ledger, last: Measured, chosen: Chosen) -> tuple[str, ...]:
    """Why the incumbent is not the plan that did best in the trial runs, in sentences."""
    ranked = [m for m in ranked_by_loss(last.values()) if is_allowed(problem, m)]
    comparable = _comparable(problem, ledger, ranked)
    leading = by_merit(problem, ledger, comparable)[0].plan
    is_baseline, sentences = ledger.is_baseline(leading), []
    if leading != comparable[0].plan and not has_learned(problem, ledger, comparable):
        first = "a default at its lowest" if is_baseline else "the lowest"
        sentences.append(
            f"The trial runs hardly learned, so {first} learning rate was put first among plans of about the "
            "same loss."
        )
    if is_baseline and not ledger.is_baseline(chosen.incumbent):
        sentences.append(
            "The baseline came first in the trial runs. Short runs say little of plans that start slowly, so "
            "the best of these was compared with it."
        )
    return tuple(sentences)


def smallest_candidate(
    problem: SearchProblem, ranked: Sequence[Measurement], incumbent: Measurement
) -> Measurement:
    """The one with the fewest parameters among the small ones that may be as good as the incumbent.

    The incumbent where there is none; none is where the metric was not measured. The head alone is none where
    only short runs would tell, as `choose` says.
    """
    most = SMALLEST_SHARE * incumbent.plan.trainable_params
    small = [
        m for m in ranked if m.plan.trainable_params <= most and (m.plan.adapters or _tells_of_head(problem))
    ]
    good = [m for m in small if may_be_as_good(problem, m, incumbent)]
    return min(good, key=lambda m: (m.plan.trainable_params, by_loss(m)), default=incumbent)


def retune(problem: SearchProblem, study_log: StudyLog, last: Measured) -> Measured:
    """The last rung, with incumbent and baseline at lower rates too, as long as that helps.

    Both get the same tries. Short runs prefer higher learning rates than full ones do, and a rung of a tenth
    of a run still does.
    """
    ledger = study_log.ledger
    chosen = choose(problem, ledger, last)
    leading = dict.fromkeys((chosen.incumbent, chosen.baseline))
    ledger.progress.phase("rates", len(leading))
    fidelity = problem.rung(problem.schedule.last)
    n_times = _MAX_LOWERED if 2 * fidelity.train_steps < problem.schedule.full_steps else 1
    measured = dict(last)
    for plan in leading:
        arm = ledger.arms[plan]
        for _ in range(n_times):
            tried = [m for m in measured.values() if m.plan.adapters == plan.adapters]
            best = min(tried, key=by_loss).plan
            if any(m.plan.learning_rate < 0.9 * best.learning_rate for m in tried):
                break
            lower = lowered(best, problem, arm=arm)
            if lower is None:
                break
            if not has_room(problem, ledger, n_plans=1, index=problem.schedule.last, is_new=True):
                log.info("A lower rate for %s is not tried: that cannot be paid.", arm.label)
                break
            measured[lower] = study_log.measure_extra(arm, lower, source="retuned", fidelity=fidelity)
    return measured


def lowered(plan: Plan, problem: SearchProblem, *, arm: Arm) -> Plan | None:
    """The plan at a lower learning rate; None far below the range, and where nothing is trained.

    A range that the search space sets is kept to.
    """
    if not plan.adapters and not problem.has_head:
        return None
    rate = plan.learning_rate / _LOWER
    lowest = problem.rate_range(plan, arm)[0] / (1.0 if problem.has_set_rates(plan, arm) else _LOWER)
    return None if rate < lowest else replace(plan, learning_rate=rate)

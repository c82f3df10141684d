"""The baseline at a lower learning rate, where a confirming run of it failed."""

from __future__ import annotations

from collections.abc import Sequence

from autopeft import evidence
from autopeft.engine.choose import UNLEARNED, lowered
from autopeft.engine.confirm import can_confirm
from autopeft.engine.finalists import Finalists, with_baseline
from autopeft.engine.judge import Confirmed, scores_of
from autopeft.engine.ledger import Ledger
from autopeft.engine.problem import SearchProblem
from autopeft.engine.ranking import ranked_by_loss
from autopeft.engine.study_log import StudyLog
from autopeft.records import Measurement, Status, rate

_MOST = 2  # lower rates; chosen by hand


def retried(
    problem: SearchProblem, study_log: StudyLog, finalists: Finalists, confirmed: Confirmed
) -> tuple[Finalists, Confirmed, tuple[str, ...]]:
    """Finalists and confirmation, with the baseline at a lower rate where it failed on a seed.

    Near the learning rate at which training breaks down, a plan does well on most seeds and fails on some.
    Such a baseline is no yardstick, and no answer. It is trained on the same seeds at a lower rate, as far as
    cost and time allow; the lower rate takes its place where it is better on average. Returns also what was
    done, in sentences.
    """
    ledger, sentences = study_log.ledger, list[str]()
    for _ in range(_MOST):
        plan = finalists.baseline
        runs = confirmed.get(plan, [])
        failed_runs = [run for run in runs if _has_failed(problem, ledger, run)]
        if not failed_runs or not plan.adapters:
            break
        n_diverged = sum(run.status is Status.DIVERGED for run in failed_runs)
        # If no longer run learned more than the first rung, the steps are too few for all plans.
        longer = (
            m
            for m in ledger.measured.values()
            if m.fidelity.train_steps > problem.schedule.rung_steps[0]
            and m.plan.adapters
            and m.fidelity.split != "test"
        )
        if not n_diverged and not any(_has_learned(problem, ledger, m) for m in longer):
            break
        counts = {"diverged": n_diverged, "learned nothing": len(failed_runs) - n_diverged}
        what = " and ".join(f"{name} on {n}" for name, n in counts.items() if n) + f" of {len(runs)} seeds"
        if len(runs) == 1:
            what = f"{next(name for name, n in counts.items() if n)} on its only seed"
        failed = f"The baseline {what} at the learning rate {rate(plan.learning_rate)}"
        lower = lowered(plan, problem, arm=ledger.arms[plan])
        if lower is None:
            sentences.append(f"{failed}, and its range has no lower one.")
            break
        if not can_confirm(problem, ledger, [lower], n_new=len(runs)):
            sentences.append(f"{failed}; a larger --max-cost or --max-time would try a lower one.")
            break
        ledger.progress.phase("a lower rate", len(runs))
        ledger.plan_ahead(problem.confirmation(0), n_measurements=len(runs))
        if lower not in ledger.arms:
            study_log.measure_extra(
                ledger.arms[plan], lower, source="retuned", fidelity=problem.confirmation(0)
            )
        again = ledger.measure_all([(lower, problem.confirmation(index)) for index in range(len(runs))])
        if any(run.status.is_of_machine for run in again):
            sentences.append(f"{failed}; a run at {rate(lower.learning_rate)} broke off.")
            break
        is_better = _mean(problem, again) > _mean(problem, runs)
        verdict = "better" if is_better else "no better"
        same = "the same seed" if len(runs) == 1 else "the same seeds"
        sentences.append(f"{failed}; at {rate(lower.learning_rate)} it is {verdict} on {same}.")
        if not is_better:
            break
        confirmed = {known: rows for known, rows in confirmed.items() if known != plan} | {lower: again}
        finalists = with_baseline(finalists, lower)
    return finalists, confirmed, tuple(sentences)


def _has_failed(problem: SearchProblem, ledger: Ledger, run: Measurement) -> bool:
    """Whether a full run diverged, learned nothing beside the first rung, or lost what was learned there."""
    if run.loss is None:
        return run.status is Status.DIVERGED
    is_known = _short_run(problem, ledger, run) is not None
    return is_known and not _has_learned(problem, ledger, run)


def _has_learned(problem: SearchProblem, ledger: Ledger, run: Measurement) -> bool:
    """Whether loss or metric of a run is better than that of the same adapters at the first rung.

    Adapters whose loss was clearly below that without any there had learned already: their run has learned
    if it keeps half of that. A language model may gain less than a percent afterwards, which is less than two
    splits differ by; where it gains little in all, it has failed if it is clearly above the untrained model.
    A metric without bounds is such a loss itself, and tells no more.
    """
    short = _short_run(problem, ledger, run)
    if short is None or short.loss is None or run.loss is None:
        return False
    # The lowest loss of the head alone, or of the untrained model.
    first = ranked_by_loss(ledger.at(problem.rung(0)).values())
    without = next((m.loss for m in first if not m.plan.adapters), None)
    limit = UNLEARNED * short.loss
    if without is not None and short.loss <= UNLEARNED * without:
        limit = (short.loss + without) / 2
    elif without is not None and not problem.has_head:
        limit = without / UNLEARNED
    is_metric_better = (
        problem.metric.score_step is not None
        and run.metric is not None
        and short.metric is not None
        and problem.sign * (run.metric - short.metric) > 0
    )
    return run.loss <= limit or is_metric_better


def _short_run(problem: SearchProblem, ledger: Ledger, run: Measurement) -> Measurement | None:
    first = ranked_by_loss(ledger.at(problem.rung(0)).values())
    return next((m for m in first if m.plan.adapters == run.plan.adapters), None)


def _mean(problem: SearchProblem, runs: Sequence[Measurement]) -> float:
    return evidence.mean_and_std_error(scores_of(problem, runs), span=problem.metric.score_span)[0]

"""Confirmation: the finalists trained again on fresh seeds, and the one look at the test split."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

from autopeft.engine.judge import Confirmed, look_at
from autopeft.engine.ledger import TIME_IS_UP, Ledger
from autopeft.engine.problem import SearchProblem
from autopeft.engine.promote import best_user_plans
from autopeft.engine.ranking import by_loss
from autopeft.engine.schedule import Schedule
from autopeft.errors import StoppedError, TrainingError
from autopeft.records import Measurement, Plan, Status

MAX_CONFIRMED = 4  # best, baseline, smallest, head alone
MAX_TESTED = 3
_SAME_PLAN_SEEDS = 3  # where best and baseline are one plan, no interval decides; enough for its spread

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Finalists:
    """The plans to confirm, named before: incumbent, baseline, a small plan, and others beside them."""

    best: Plan
    baseline: Plan
    smallest: Plan
    others: tuple[tuple[str, Plan], ...] = ()

    @property
    def named(self) -> dict[str, Plan]:
        """Every plan by its name; one plan may have several."""
        chief = {"best": self.best, "smallest": self.smallest, "baseline": self.baseline}
        return chief | {name: plan for name, plan in self.others if plan not in self.chief}

    @property
    def chief(self) -> tuple[Plan, ...]:
        """Best, smallest and baseline, each once; the test split is read for these."""
        return tuple(dict.fromkeys((self.best, self.smallest, self.baseline)))


def confirm_cost(schedule: Schedule, *, n_seeds: int) -> float:
    """Cost in R of best, baseline and smallest plan on so many seeds, and of the head alone, at most.

    The head trains next to nothing. Test split and general text are included.
    """
    trained = schedule.cost(steps=schedule.confirm_steps, eval_examples=schedule.n_confirm)
    head = schedule.cost(steps=0, eval_examples=schedule.n_confirm)
    read = schedule.cost(steps=0, eval_examples=schedule.n_test + schedule.n_general)
    return n_seeds * (MAX_TESTED * (trained + read) + (MAX_CONFIRMED - MAX_TESTED) * head)


def finalists(problem: SearchProblem, ledger: Ledger, chosen: tuple[Plan, Plan, Plan]) -> Finalists:
    """The chosen three, with the head alone and the user's plans at their best rates."""
    longest_first = sorted(ledger.measured.values(), key=lambda m: (-m.fidelity.train_steps, by_loss(m)))
    finished = [m for m in longest_first if m.loss is not None]
    heads = [m.plan for m in finished if not m.plan.adapters]
    others = [(str(problem.without_adapters), plan) for plan in heads[:1]]
    others += [(str(ledger.arms[plan]), plan) for plan in best_user_plans(problem, ledger, finished)]
    best, baseline, smallest = chosen
    return Finalists(best=best, baseline=baseline, smallest=smallest, others=tuple(others))


def confirm(problem: SearchProblem, ledger: Ledger, named: Finalists) -> Confirmed:
    """Train plans on fresh seeds: best and baseline first, then the smallest, then the others.

    Best and baseline get one more common seed at a time, up to `confirm.seeds`, until the interval between
    them decides. The others get as many seeds, the same ones, so that rows pair. Where time runs short a plan
    has fewer seeds, two at least, or is missing.

    Raises:
        StoppedError: The time was up before best and baseline had two seeds each.
        TrainingError: A run of best or baseline broke off, which unlike divergence says
            nothing of its quality.
    """
    if problem.spec.confirm.fidelity == "none":
        return {}
    first = list(dict.fromkeys([named.best, named.baseline]))
    others = dict.fromkeys([named.smallest, *(plan for _, plan in named.others)])
    later = [plan for plan in others if plan not in first]
    n_seeds = problem.spec.confirm.seeds
    n_seeds = n_seeds if len(first) > 1 else min(_SAME_PLAN_SEEDS, n_seeds)
    n_planned = n_seeds * (len(first) + len(later))
    ledger.progress.phase("confirmation", n_planned)
    ledger.plan_ahead(problem.confirmation(0), n_measurements=n_planned)
    rows = _confirm_group(problem, ledger, first, n_seeds=n_seeds, is_needed=True)
    if len(rows) < 2:
        raise StoppedError(TIME_IS_UP)
    confirmed = {plan: list(runs) for plan, runs in zip(first, zip(*rows, strict=True), strict=True)}
    n_seeds = len(rows)
    for plan in later:
        ledger.plan_ahead(problem.confirmation(0), n_measurements=n_seeds)
        rows = _confirm_group(problem, ledger, [plan], n_seeds=n_seeds, is_needed=False)
        if len(rows) >= 2:
            confirmed[plan] = [run for (run,) in rows]
    return confirmed


def _confirm_group(
    problem: SearchProblem, ledger: Ledger, group: Sequence[Plan], *, n_seeds: int, is_needed: bool
) -> list[list[Measurement]]:
    """One row for each seed, with a measurement of every plan; it may stop early."""
    rows: list[list[Measurement]] = []
    for index in range(n_seeds):
        if not _has_time(problem, ledger, group, may_use_reserve=is_needed and index < 2):
            break
        row = ledger.measure_all([(plan, problem.confirmation(index)) for plan in group])
        failed = next((measurement for measurement in row if measurement.status.is_of_machine), None)
        if failed and is_needed:
            raise TrainingError(
                f"A confirming run of plan {failed.plan.digest} failed: {failed.error}. "
                "What was measured is kept; mend the cause and continue with --resume."
            )
        if failed:
            log.warning("A confirming run of plan %s failed; it has fewer seeds.", failed.plan.digest)
            break
        rows.append(row)
        if len(group) > 1 and look_at(problem, rows).is_decided:
            break
    return rows


def _has_time(
    problem: SearchProblem, ledger: Ledger, group: Sequence[Plan], *, may_use_reserve: bool
) -> bool:
    """Whether one more seed fits; the first two of best and baseline may use the reserve of the report."""
    if may_use_reserve and ledger.limit_seconds is not None:
        return ledger.clock() - ledger.started < ledger.limit_seconds
    seconds = len(group) * ledger.estimate(problem.confirmation(0))
    return ledger.has_time_for(seconds=seconds, reserve=ledger.report_reserve(problem, n_plans=MAX_TESTED))


def read_test(problem: SearchProblem, ledger: Ledger, named: Finalists, confirmed: Confirmed) -> Confirmed:
    """The test split, read once, with the confirmed weights of the chief plans; empty where there is none.

    A seed that diverged has no weights, and counts as wrong here as it does in the confirmation.
    """
    if not problem.schedule.n_test:
        return {}
    rows = {plan: confirmed[plan] for plan in named.chief if plan in confirmed}
    ledger.progress.phase("test", sum(map(len, rows.values())))
    tested: Confirmed = {plan: [] for plan in rows}
    for plan, runs in rows.items():
        for run in runs:
            fidelity = problem.schedule.fidelity("test", seed=run.fidelity.seed)
            if run.status is Status.COMPLETE:
                tested[plan] += ledger.measure_all([(plan, fidelity)])
            else:
                tested[plan].append(replace(run, fidelity=fidelity, train_seconds=0.0, eval_seconds=0.0))
    return tested

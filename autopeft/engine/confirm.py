"""Confirmation on fresh seeds and fresh data, the verdict, and the one look at the test split."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from autopeft import evidence
from autopeft.engine.ledger import TIME_IS_UP, Ledger, SearchProblem, by_loss, has_broken
from autopeft.engine.promote import given_plans
from autopeft.errors import StoppedError, TrainingError
from autopeft.evidence import Look
from autopeft.records import Confirmation, Fidelity, Measurement, Plan, Status, Verdict

MAX_CONFIRMED = 4  # best, baseline, smallest, head alone
MAX_TESTED = 3
_HOPELESS = 1e6  # score without bounds of a plan none of whose seeds came through; chosen by hand
_SAME_PLAN_SEEDS = 3  # where best and baseline are one plan, no interval decides; enough for its spread

Confirmed = dict[Plan, list[Measurement]]
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Finalists:
    """What is confirmed, named before: the incumbent, the baseline, a small plan, and what stands beside."""

    best: Plan
    baseline: Plan
    smallest: Plan
    others: tuple[tuple[str, Plan], ...] = ()

    @property
    def named(self) -> dict[str, Plan]:
        """Every plan by its name; one plan may have several."""
        return {
            "best": self.best,
            "smallest": self.smallest,
            "baseline": self.baseline,
            **{name: plan for name, plan in self.others if plan not in self.chief},
        }

    @property
    def chief(self) -> tuple[Plan, ...]:
        """Best, smallest and baseline, each once; the test split is read for these."""
        return tuple(dict.fromkeys((self.best, self.smallest, self.baseline)))


def finalists(problem: SearchProblem, ledger: Ledger, chosen: tuple[Plan, Plan, Plan]) -> Finalists:
    """The chosen three, with the head alone and the plans that the user gave at their best rates."""
    best, baseline, smallest = chosen
    ranked = sorted(ledger.measured.values(), key=lambda m: (-m.fidelity.train_steps, by_loss(m)))
    finished = [m for m in ranked if m.loss is not None]
    heads = [m.plan for m in finished if not m.plan.adapters]
    given = [
        (str(arm), own[0])
        for (arm, _), own in zip(problem.user_plans, given_plans(problem, ledger, finished), strict=True)
        if own
    ]
    others = (*((str(problem.without_adapters), plan) for plan in heads[:1]), *given)
    return Finalists(best=best, baseline=baseline, smallest=smallest, others=others)


def confirm(problem: SearchProblem, ledger: Ledger, named: Finalists) -> Confirmed:
    """Train plans on fresh seeds: best and baseline first, then the smallest, then what stands beside.

    Best and baseline get one more common seed at a time, up to `confirm.seeds`, until the interval
    between them decides; the others get as many seeds as these, the same ones, so that rows pair.
    Where time runs short a plan has fewer seeds, two at least, or is missing.

    Raises:
        StoppedError: The time was up before best and baseline had two seeds each.
        TrainingError: A run of best or baseline broke off (a full disk or memory): that says nothing
            of its plan, where a diverged run does.
    """
    if problem.spec.confirm.fidelity == "none":
        return {}
    first = list(dict.fromkeys([named.best, named.baseline]))
    others = (plan for _, plan in named.others)
    later = [plan for plan in dict.fromkeys([named.smallest, *others]) if plan not in first]
    n_seeds = problem.spec.confirm.seeds if len(first) > 1 else _n_same_seeds(problem)
    ledger.progress.phase("confirmation", n_seeds * (len(first) + len(later)))
    confirmed: Confirmed = {}
    for group in [first, *([plan] for plan in later)]:
        is_first = group is first
        ledger.plan_ahead(
            _fidelity(problem, index=0), n_measurements=n_seeds * (len(group) + len(later) * is_first)
        )
        rows = []
        for index in range(n_seeds):
            if not _has_time(problem, ledger, group, is_needed=is_first and index < 2):
                break
            row = _one_seed(problem, ledger, group, index)
            if _broke_off(row, is_needed=is_first):
                log.warning("A confirming run of plan %s failed; it has fewer seeds.", group[0].digest)
                break
            rows.append(row)
            if len(group) > 1 and _look(problem, rows).is_decided:
                break
        if len(rows) >= 2:
            confirmed |= {plan: [row[i] for row in rows] for i, plan in enumerate(group)}
        elif is_first:
            raise StoppedError(TIME_IS_UP)
        if is_first:
            n_seeds = len(rows)
    return confirmed


def _n_same_seeds(problem: SearchProblem) -> int:
    return min(_SAME_PLAN_SEEDS, problem.spec.confirm.seeds)


def _look(
    problem: SearchProblem, rows: Sequence[Sequence[Measurement]], *, planned: int | None = None
) -> Look:
    """What the seeds of best and baseline so far say."""
    best, baseline = (scores_of(problem, [row[i] for row in rows]) for i in (0, 1))
    return evidence.look(
        best,
        baseline,
        planned_seeds=planned or problem.spec.confirm.seeds,
        margin=problem.margin,
        span=problem.score_span,
    )


def _has_time(problem: SearchProblem, ledger: Ledger, group: Sequence[Plan], *, is_needed: bool) -> bool:
    """For one more seed; the first two of best and baseline may use the reserve of the report."""
    if is_needed and ledger.limit_seconds is not None:
        return ledger.clock() - ledger.started < ledger.limit_seconds
    seconds = len(group) * ledger.estimate(_fidelity(problem, index=0))
    return ledger.has_time_for(seconds=seconds, reserve=ledger.report_reserve(problem, n_plans=MAX_TESTED))


def _one_seed(problem: SearchProblem, ledger: Ledger, group: Sequence[Plan], index: int) -> list[Measurement]:
    return ledger.measure_all([(plan, _fidelity(problem, index=index)) for plan in group])


def _broke_off(row: Sequence[Measurement], *, is_needed: bool) -> bool:
    """Whether a seed failed for a reason that is not its plan's; raises where the verdict needs it."""
    broken = [measurement for measurement in row if has_broken(measurement)]
    if broken and is_needed:
        raise TrainingError(
            f"A confirming run of plan {broken[0].plan.digest} failed: {broken[0].error}. "
            "What was measured is kept; mend the cause and continue with --resume."
        )
    return bool(broken)


def _fidelity(problem: SearchProblem, *, index: int) -> Fidelity:
    """The n-th confirming run; its seed is none that the search used."""
    return problem.schedule.fidelity("confirm", seed=problem.seed + 1 + index)


def judge(problem: SearchProblem, confirmed: Confirmed, named: Finalists) -> Verdict:
    """The verdict against the baseline, and how the smallest plan stands."""
    margin, fidelity = problem.margin, problem.spec.confirm.fidelity
    if not confirmed:
        return evidence.verdict_without_confirmation(margin=margin, smallest_equivalent="unproven")
    standing = _standing(problem, confirmed, named)
    if named.best == named.baseline:
        return evidence.verdict_on_same_plan(margin=margin, fidelity=fidelity, smallest_equivalent=standing)
    rows = list(zip(confirmed[named.best], confirmed[named.baseline], strict=True))
    seen = _look(problem, rows)
    if not seen.is_decided:  # something else than the scores ended it
        seen = _look(problem, rows, planned=len(rows))
    return evidence.sequential_verdict(
        seen,
        metric=problem.metric,
        fidelity=fidelity,
        smallest_equivalent=standing,
        n_diverged=sum(row.status is not Status.COMPLETE for row in confirmed[named.best]),
    )


def _standing(problem: SearchProblem, confirmed: Confirmed, named: Finalists) -> str:
    """Whether the smallest plan is proven to lose less than the margin against the best."""
    if named.smallest == named.best:
        return "the best itself"
    tables = [scores_of(problem, confirmed.get(plan, [])) for plan in (named.smallest, named.best)]
    n_common = min(map(len, tables))
    is_proven = n_common >= 2 and evidence.within_margin(
        tables[0][:n_common],
        tables[1][:n_common],
        margin=problem.margin,
        span=problem.score_span,
    )
    return "proven" if is_proven else "unproven"


def scores_of(problem: SearchProblem, rows: Sequence[Measurement]) -> list[list[float]]:
    """Scores (S, N), larger is better; a diverged seed counts as wrong on every example.

    Scores without bounds have no wrong one: there it counts as the worst example of the plan's other seeds.
    """
    width = max((len(row.example_scores) for row in rows), default=0) or max(
        (row.fidelity.eval_examples for row in rows), default=0
    )
    wrong = min(0.0, problem.sign)  # of scores in [0, 1], as `evidence` takes them
    if problem.score_span is None:
        seen = [problem.sign * x for row in rows for x in row.example_scores]
        wrong = min(seen, default=-_HOPELESS)
    return [[problem.sign * x for x in row.example_scores] or [wrong] * width for row in rows]


def read_test(
    problem: SearchProblem, ledger: Ledger, confirmed: Confirmed, plans: Sequence[Plan]
) -> Confirmed:
    """The test split, read once, with the confirmed weights of some plans; empty where there is none.

    A seed that diverged has no weights, and counts as wrong here as it does in the confirmation.
    """
    schedule = problem.schedule
    if not schedule.n_test:
        return {}
    rows = {plan: confirmed[plan] for plan in dict.fromkeys(plans) if plan in confirmed}
    ledger.progress.phase("test", sum(map(len, rows.values())))
    tested: Confirmed = {}
    for plan, runs in rows.items():
        tested[plan] = []
        for run in runs:
            fidelity = schedule.fidelity("test", seed=run.fidelity.seed)
            diverged = replace(run, fidelity=fidelity, train_seconds=0.0, eval_seconds=0.0)
            is_good = run.status is Status.COMPLETE
            tested[plan] += ledger.measure_all([(plan, fidelity)]) if is_good else [diverged]
    return tested


def summaries(
    problem: SearchProblem, confirmed: Confirmed, named: Mapping[str, Plan]
) -> tuple[Confirmation, ...]:
    """Mean and standard error by name; a plan with two names appears under each."""
    return tuple(
        _summary(problem, name, confirmed[plan]) for name, plan in named.items() if confirmed.get(plan)
    )


def _summary(problem: SearchProblem, name: str, rows: Sequence[Measurement]) -> Confirmation:
    table = scores_of(problem, rows)
    mean, std_error = evidence.mean_and_std_error(table, span=problem.score_span)
    losses = [row.loss for row in rows if row.loss is not None]
    return Confirmation(
        name=name,
        plan=rows[0].plan,
        split=rows[0].fidelity.split,
        metric_mean=problem.sign * mean,
        metric_std_error=std_error,
        seeds=tuple(row.fidelity.seed for row in rows),
        metrics=tuple(problem.sign * sum(scores) / len(scores) for scores in table),
        mean_loss=math.fsum(losses) / len(losses) if losses else math.inf,
        train_seconds=math.fsum(row.train_seconds for row in rows) / len(rows),
    )

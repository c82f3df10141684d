"""The verdict: the best plan against the baseline on the scores of the confirmation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from autopeft import evidence
from autopeft.engine.finalists import Finalists
from autopeft.engine.problem import SearchProblem
from autopeft.evidence import Look
from autopeft.records import Confirmation, Measurement, Plan, Status, Verdict

_FEWER = 0.9  # of the baseline's parameters, at most, that count as fewer; chosen by hand
_ROUNDING = 1e-12  # of a mean of scores
_HOPELESS = 1e6  # unbounded score of a plan all of whose seeds diverged; chosen by hand

Confirmed = dict[Plan, list[Measurement]]


def recommended(problem: SearchProblem, confirmed: Confirmed, *, incumbent: Plan, baseline: Plan) -> Plan:
    """The plan to hand over: the incumbent, unless the confirmation speaks for the baseline.

    It does where the incumbent's confirmed mean is below the baseline's, and the incumbent is neither proven
    better nor proven as good with fewer parameters; and where it is proven as good, or has the same mean,
    with as many parameters, which is no reason to leave what people use. An incumbent that never finished is
    not handed over.
    """
    if incumbent == baseline or not confirmed:
        return incumbent
    if not has_finished(confirmed[incumbent]):
        return baseline
    seen = _last_look(problem, confirmed, incumbent, baseline)
    is_tied = math.isclose(seen.mean_difference, 0.0, abs_tol=_ROUNDING)
    if seen.label == "equivalent" or is_tied:
        is_smaller = incumbent.trainable_params <= _FEWER * baseline.trainable_params
        return incumbent if is_smaller else baseline
    return incumbent if seen.label == "better" or seen.mean_difference >= 0 else baseline


def with_better(problem: SearchProblem, confirmed: Confirmed, finalists: Finalists) -> Finalists:
    """The finalists, with a plan as incumbent and best that the search passed over and that is proven better.

    Such a plan is the small one where the baseline is kept, since no other plan proved better than the
    baseline then; and the head alone, which short runs do not tell of. Both were named before the
    confirmation, so that their tests keep their level. The plan has to beat the best one so far, too.
    """
    small = [finalists.smallest] if finalists.best == finalists.baseline else []
    heads = [plan for _, plan in finalists.others if not plan.adapters]
    rivals = {finalists.baseline, finalists.best}
    for plan in dict.fromkeys([*heads, *small]):
        is_new = plan in confirmed and plan not in (*rivals, finalists.incumbent)
        if is_new and all(
            len(confirmed[plan]) == len(confirmed[rival]) > 1
            and _last_look(problem, confirmed, plan, rival).label == "better"
            for rival in rivals
        ):
            return finalists.led_by(plan)
    return finalists


def judge(
    problem: SearchProblem, confirmed: Confirmed, finalists: Finalists, *, has_rivals: bool = True
) -> Verdict:
    """The verdict on the incumbent against the baseline, and whether the smallest plan is proven.

    `has_rivals` says whether the search tried more than one plan.
    """
    margin, fidelity = problem.margin, problem.spec.confirm.fidelity
    if not confirmed:
        return evidence.verdict_without_confirmation(margin=margin)
    standing = _standing(problem, confirmed, smallest=finalists.smallest, best=finalists.best)
    if finalists.incumbent == finalists.baseline:
        return evidence.verdict_on_same_plan(
            margin=margin,
            fidelity=fidelity,
            smallest_equivalent=standing,
            has_rivals=has_rivals,
            has_finished=has_finished(confirmed[finalists.baseline]),
        )
    is_kept = finalists.best == finalists.baseline
    compared = {"incumbent": finalists.incumbent, "baseline": finalists.baseline}
    diverged = [name for name, plan in compared.items() if not has_finished(confirmed[plan])]
    n_diverged = sum(row.status is not Status.COMPLETE for row in confirmed[finalists.incumbent])
    n_seeds = len(confirmed[finalists.incumbent])
    if diverged:
        return evidence.verdict_on_diverged(
            diverged,
            n_seeds=n_seeds,
            n_finished=n_seeds - n_diverged,
            is_kept=is_kept,
            margin=margin,
            fidelity=fidelity,
            smallest_equivalent=standing,
        )
    return evidence.sequential_verdict(
        _last_look(problem, confirmed, finalists.incumbent, finalists.baseline),
        metric=problem.metric,
        fidelity=fidelity,
        smallest_equivalent=standing,
        n_diverged=n_diverged,
        n_ran=n_seeds,
        is_kept=is_kept,
    )


def _last_look(problem: SearchProblem, confirmed: Confirmed, incumbent: Plan, baseline: Plan) -> Look:
    """What all common seeds of two plans say; where time or a failed run ended them, as if so planned.

    Other plans that ran on the same seeds tell more of how much a seed moves a plan.
    """
    n_seeds = len(confirmed[incumbent])
    others = [plan for plan in confirmed if plan.adapters and plan not in (incumbent, baseline)]
    full = [plan for plan in others if len(confirmed[plan]) == n_seeds]
    plans = (incumbent, baseline, *full)
    rows = list(zip(*(confirmed[plan] for plan in plans), strict=True))
    seen = look_at(problem, rows)
    return seen if seen.is_decided else look_at(problem, rows, planned=len(rows))


def look_at(
    problem: SearchProblem, rows: Sequence[Sequence[Measurement]], *, planned: int | None = None
) -> Look:
    """What the seeds of best (first in each row) and baseline (second) say so far.

    Further plans in the rows count for the variance between seeds.
    """
    best, baseline, *others = (scores_of(problem, list(runs)) for runs in zip(*rows, strict=True))
    return evidence.look(
        best,
        baseline,
        others=others,
        planned_seeds=planned or problem.spec.confirm.seeds,
        margin=problem.margin,
        span=problem.metric.score_span,
        examples=problem.examples("confirm"),
    )


def _standing(problem: SearchProblem, confirmed: Confirmed, *, smallest: Plan, best: Plan) -> str:
    """Whether the smallest plan is proven to lose less than the margin against the best."""
    if smallest == best:
        return "the best itself"
    plans = {"smallest": smallest, "best": best}
    if not all(has_score(problem, confirmed.get(plan, [])) for plan in plans.values()):
        return "unproven"
    tables = {name: scores_of(problem, confirmed.get(plan, [])) for name, plan in plans.items()}
    if min(map(len, tables.values())) < 2:
        return "unproven"
    [standing] = evidence.plans_within_margin(
        tables,
        best="best",
        margin=problem.margin,
        span=problem.metric.score_span,
        examples=problem.examples("confirm"),
        pool=seed_pool(problem, confirmed),
    )
    return "proven" if standing.is_within else "unproven"


def seed_pool(problem: SearchProblem, confirmed: Confirmed) -> list[list[list[float]]]:
    """Scores of the confirmed plans that tell how much a seed moves a plan.

    The head alone is left out: seeds move it less than plans with adapters.
    """
    return [scores_of(problem, rows) for plan, rows in confirmed.items() if plan.adapters]


def has_finished(rows: Sequence[Measurement]) -> bool:
    """Whether any run of a plan finished, so that it has weights."""
    return any(row.status is Status.COMPLETE for row in rows)


def has_score(problem: SearchProblem, rows: Sequence[Measurement]) -> bool:
    """Whether a plan has a score to compare: a loss without bounds has none where all its seeds diverged."""
    is_bounded = problem.metric.score_span is not None or problem.metric.greater_is_better
    return is_bounded or any(row.example_scores for row in rows)


def scores_of(problem: SearchProblem, rows: Sequence[Measurement]) -> list[list[float]]:
    """Scores (S, N), larger is better; a diverged seed counts as wrong on every example.

    An F1 or a correlation of it is 0, and its losses are those of the worst example of the other seeds.
    """
    lengths = [len(row.example_scores) for row in rows] + [0]
    width = max(lengths) or max((row.fidelity.eval_examples for row in rows), default=0)
    # `evidence` takes scores in [0, span], or negated in [-span, 0].
    wrong = 0.0 if problem.metric.greater_is_better else -(problem.metric.score_span or 0.0)
    if problem.metric.score_span is None and not problem.metric.greater_is_better:
        scores = [problem.sign * x for row in rows for x in row.example_scores]
        wrong = min(scores, default=-_HOPELESS)
    return [[problem.sign * x for x in row.example_scores] or [wrong] * width for row in rows]


def summaries(
    problem: SearchProblem, confirmed: Confirmed, by_name: Mapping[str, Plan]
) -> tuple[Confirmation, ...]:
    """Mean and standard error by name; a plan with two names appears under each.

    A plan without a score is left out, and so is the plan handed over where none of its runs finished.
    """
    rows = {name: confirmed[plan] for name, plan in by_name.items() if confirmed.get(plan)}
    best = by_name.get("best")
    confirmations = []
    for name, runs in rows.items():
        if not has_score(problem, runs) or (by_name[name] == best and not has_finished(runs)):
            continue
        table = [[problem.sign * score for score in scores] for scores in scores_of(problem, runs)]
        mean, std_error = evidence.mean_and_std_error(
            table, span=problem.metric.score_span, examples=problem.examples(runs[0].fidelity.split)
        )
        losses = [run.loss for run in runs if run.loss is not None]
        confirmation = Confirmation(
            name=name,
            plan=runs[0].plan,
            split=runs[0].fidelity.split,
            metric_mean=mean,
            metric_std_error=std_error,
            seeds=tuple(run.fidelity.seed for run in runs),
            metrics=tuple(sum(scores) / len(scores) for scores in table),
            mean_loss=math.fsum(losses) / len(losses) if losses else math.inf,
            train_seconds=math.fsum(run.train_seconds for run in runs) / len(runs),
        )
        confirmations.append(confirmation)
    return tuple(confirmations)

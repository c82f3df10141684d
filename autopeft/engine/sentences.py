"""Findings beside the verdict, one sentence each for the report."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from autopeft import evidence
from autopeft.engine.finalists import Finalists
from autopeft.engine.judge import Confirmed, has_finished, scores_of, seed_pool
from autopeft.engine.ledger import Ledger
from autopeft.engine.problem import SearchProblem
from autopeft.records import Measurement, Plan, Status, Verdict


def sentences(
    problem: SearchProblem,
    ledger: Ledger,
    *,
    finalists: Finalists,
    confirmed: Confirmed,
    last: Mapping[Plan, Measurement],
    verdict: Verdict,
) -> tuple[str, ...]:
    """The winner's curse, the plans that are as good as the best, and its worst seed, where there are any."""
    findings = []
    pair = (finalists.incumbent, finalists.baseline)
    metrics = [metric for run in map(last.get, pair) if run and (metric := run.metric) is not None]
    have_finished = all(has_finished(confirmed.get(plan, [])) for plan in pair)
    if len(set(pair)) == len(metrics) == 2 and have_finished and verdict.mean_difference is not None:
        # The paired difference, over the seeds that both have.
        n_common = min(len(confirmed[plan]) for plan in pair)
        tables = [scores_of(problem, confirmed[plan][:n_common]) for plan in pair]
        interval = evidence.paired_interval(
            *tables, span=problem.metric.score_span, examples=problem.examples("confirm")
        )
        sentence = evidence.optimism_sentence(
            promised=problem.sign * (metrics[0] - metrics[1]),
            confirmed=verdict.mean_difference,
            std_error=interval.std_error,
            n_tried=len({plan for plan, fidelity in ledger.measured if fidelity.split == "search"}),
            metric=problem.metric,
        )
        findings.append(sentence)
    confirmed = _finished(confirmed)
    if len(confirmed) > 1 and len(confirmed.get(finalists.best, ())) > 1:
        findings += _as_good(problem, finalists, confirmed, verdict.as_good)
    rows = confirmed.get(finalists.best, [])
    if len(rows) > 1:
        means = [sum(scores) / len(scores) for scores in scores_of(problem, rows)]
        worst = min(range(len(rows)), key=lambda i: means[i])
        n_diverged = sum(row.status is not Status.COMPLETE for row in rows)
        _, chance = evidence.divergence_chance(n_diverged, len(rows))
        score = problem.sign * means[worst]
        shown = f"{100 * score:.1f} %" if problem.metric.is_share else f"{score:.3f}"
        findings.append(
            f"The worst seed of the best plan ({rows[worst].fidelity.seed}) has {problem.metric.words} "
            f"{shown}; {n_diverged} of {len(rows)} seeds diverged, and by the 95 % "
            f"interval for so few seeds up to {100 * chance:.0f} % of runs might."
        )
    return tuple(findings)


def plans_as_good(
    problem: SearchProblem, finalists: Finalists, confirmed: Confirmed, *, smallest: str
) -> tuple[str, ...]:
    """Names of the confirmed plans that are proven to be within the margin of the best, on several seeds.

    The smallest plan was named before the confirmation and tested alone, as the verdict's `smallest` says.
    Where it is proven the others are tested too, so that the chance of any wrong claim stays at 5 % (tests in
    a fixed order).
    """
    confirmed = _finished(confirmed)
    if len(confirmed) < 2 or len(confirmed.get(finalists.best, ())) < 2:
        return ()
    names = _names(finalists)
    is_named = finalists.smallest != finalists.best
    if is_named and smallest != "proven":
        return ()
    named = [plan for plan, rows in confirmed.items() if plan in names and len(rows) > 1]
    tested = [plan for plan in named if not (is_named and plan == finalists.smallest)]
    smallest_first = sorted(tested, key=lambda plan: (plan.trainable_params, names[plan]))
    standings = evidence.plans_within_margin(
        {names[plan]: scores_of(problem, confirmed[plan]) for plan in smallest_first},
        best="best",
        margin=problem.margin,
        span=problem.metric.score_span,
        examples=problem.examples("confirm"),
        pool=seed_pool(problem, confirmed),
    )
    proven = tuple(standing.name for standing in standings if standing.is_within)
    return (names[finalists.smallest], *proven) if is_named else proven


def _as_good(
    problem: SearchProblem, finalists: Finalists, confirmed: Confirmed, proven: Sequence[str]
) -> list[str]:
    """The plans that are as good as the best, in one sentence.

    Nothing where none is proven and one of them scored better, such as a plan beyond the budget.
    """
    if not proven:
        means = {}
        for plan, rows in confirmed.items():
            table = scores_of(problem, rows)
            means[plan] = math.fsum(map(math.fsum, table)) / sum(map(len, table))
        none = f"No other of the {len(confirmed)} confirmed plans is proven to be as good as the best."
        return [none] if means[finalists.best] == max(means.values()) else []
    n_params = {name: plan.trainable_params for plan, name in _names(finalists).items()}
    listed = ", ".join(f"{name} ({n_params[name]:,} parameters)" for name in proven)
    return [
        "Proven to lose less than the margin against the best plan, with a chance of at most 5 % that any of "
        f"these claims is wrong: {listed}."
    ]


def _names(finalists: Finalists) -> dict[Plan, str]:
    """Each named plan with the first of its names, the best one as that."""
    return {plan: name for name, plan in reversed(finalists.by_name.items())} | {finalists.best: "best"}


def _finished(confirmed: Confirmed) -> Confirmed:
    return {plan: rows for plan, rows in confirmed.items() if has_finished(rows)}

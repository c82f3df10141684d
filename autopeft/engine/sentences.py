"""Findings beside the verdict, one sentence each for the report."""

from __future__ import annotations

from collections.abc import Mapping

from autopeft import evidence
from autopeft.engine.confirm import Finalists
from autopeft.engine.judge import Confirmed, scores_of
from autopeft.engine.ledger import Ledger
from autopeft.engine.problem import SearchProblem
from autopeft.records import Measurement, Plan, Status, Verdict


def sentences(
    problem: SearchProblem,
    ledger: Ledger,
    *,
    named: Finalists,
    confirmed: Confirmed,
    last: Mapping[Plan, Measurement],
    verdict: Verdict,
) -> tuple[str, ...]:
    """The winner's curse, the plans that are as good as the best, and its worst seed, where there are any."""
    findings = []
    ours, theirs = last.get(named.best), last.get(named.baseline)
    if ours and theirs and confirmed and named.best != named.baseline:
        n_tried = len({plan for plan, fidelity in ledger.measured if fidelity.split == "search"})
        findings += _optimism(problem, ours, theirs, confirmed, verdict=verdict, n_tried=n_tried)
    if len(confirmed) > 1 and named.best in confirmed:
        findings.append(_as_good(problem, named, confirmed))
    if named.best in confirmed:
        findings.append(_worst_seed(problem, confirmed[named.best]))
    return tuple(findings)


def _optimism(
    problem: SearchProblem,
    ours: Measurement,
    theirs: Measurement,
    confirmed: Confirmed,
    *,
    verdict: Verdict,
    n_tried: int,
) -> list[str]:
    """How much of the gain at the last rung was confirmed; nothing where a metric is missing."""
    if ours.metric is None or theirs.metric is None or verdict.mean_difference is None:
        return []
    rows = [confirmed[run.plan] for run in (ours, theirs)]
    n = min(map(len, rows))
    tables = [scores_of(problem, row[:n]) for row in rows]
    sentence = evidence.optimism_sentence(
        promised=problem.sign * (ours.metric - theirs.metric),
        confirmed=verdict.mean_difference,
        std_error=evidence.paired_interval(*tables, span=problem.score_span).std_error,
        n_tried=n_tried,
        metric=problem.metric,
    )
    return [sentence]


def _as_good(problem: SearchProblem, named: Finalists, confirmed: Confirmed) -> str:
    """The confirmed plans that are proven to be within the margin of the best."""
    names = {plan: name for name, plan in reversed(named.named.items())}
    names[named.best] = "best"
    smallest_first = sorted(confirmed, key=lambda plan: (plan.trainable_params, names[plan]))
    n_params = {names[plan]: plan.trainable_params for plan in confirmed}
    standings = evidence.plans_within_margin(
        {names[plan]: scores_of(problem, confirmed[plan]) for plan in smallest_first},
        best="best",
        margin=problem.margin,
        span=problem.score_span,
    )
    proven = [standing.name for standing in standings if standing.is_within]
    if not proven:
        return f"No other of the {len(confirmed)} confirmed plans is proven to be as good as the best."
    listed = ", ".join(f"{name} ({n_params[name]:,} parameters)" for name in proven)
    return (
        "Proven to lose less than the margin against the best plan, with a chance of at most 5 % that any of "
        f"these claims is wrong: {listed}."
    )


def _worst_seed(problem: SearchProblem, rows: list[Measurement]) -> str:
    """The lowest seed of the best plan, and how often such a plan may diverge after so few seeds."""
    means = [sum(scores) / len(scores) for scores in scores_of(problem, rows)]
    worst = min(range(len(rows)), key=lambda i: means[i])
    n_diverged = sum(row.status is not Status.COMPLETE for row in rows)
    _, chance = evidence.divergence_chance(n_diverged, len(rows))
    return (
        f"The worst seed of the best plan ({rows[worst].fidelity.seed}) has {problem.metric} "
        f"{problem.sign * means[worst]:.4f}; {n_diverged} of {len(rows)} seeds diverged, and by the 95 % "
        f"interval for so few seeds up to {100 * chance:.0f} % of runs might."
    )

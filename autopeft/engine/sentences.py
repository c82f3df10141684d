"""What the evidence says beside the verdict, one plain sentence each."""

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
    """The winner's curse, the plans that are as good as the best, and the worst seed; where there are any."""
    told = []
    if confirmed and named.best != named.baseline and verdict.mean_difference is not None:
        told += _optimism(problem, ledger, named=named, confirmed=confirmed, last=last, verdict=verdict)
    if len(confirmed) > 1 and named.best in confirmed:
        told.append(_equals(problem, named, confirmed))
    if named.best in confirmed:
        told.append(_worst_seed(problem, confirmed[named.best]))
    return tuple(told)


def _optimism(
    problem: SearchProblem,
    ledger: Ledger,
    *,
    named: Finalists,
    confirmed: Confirmed,
    last: Mapping[Plan, Measurement],
    verdict: Verdict,
) -> list[str]:
    ours, theirs = last.get(named.best), last.get(named.baseline)
    if ours is None or theirs is None or ours.metric is None or theirs.metric is None:
        return []
    n = min(len(confirmed[named.best]), len(confirmed[named.baseline]))
    tables = [scores_of(problem, confirmed[plan][:n]) for plan in (named.best, named.baseline)]
    sentence = evidence.optimism_sentence(
        promised=problem.sign * (ours.metric - theirs.metric),
        confirmed=verdict.mean_difference or 0.0,
        std_error=evidence.paired_interval(*tables, span=problem.score_span).std_error,
        n_tried=len({plan for plan, fidelity in ledger.measured if fidelity.split == "search"}),
        metric=problem.metric,
    )
    return [sentence]


def _equals(problem: SearchProblem, named: Finalists, confirmed: Confirmed) -> str:
    names = {plan: name for name, plan in reversed(named.named.items())}
    names[named.best] = "best"
    n_params = {names[plan]: plan.trainable_params for plan in confirmed}
    smallest_first = sorted(confirmed, key=lambda plan: (plan.trainable_params, names[plan]))
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
    return f"Proven to lose less than the margin against the best, all claims together at 5 %: {listed}."


def _worst_seed(problem: SearchProblem, rows: list[Measurement]) -> str:
    """The lowest seed, and what so few seeds leave open: no interval knows of a failure that none showed."""
    means = [sum(scores) / len(scores) for scores in scores_of(problem, rows)]
    worst = min(range(len(rows)), key=lambda i: means[i])
    n_diverged = sum(row.status is not Status.COMPLETE for row in rows)
    _, chance = evidence.divergence_chance(n_diverged, len(rows))
    value = f"{problem.sign * means[worst]:.4f}"
    return (
        f"The best plan's worst seed ({rows[worst].fidelity.seed}) has {problem.metric} {value}; "
        f"{n_diverged} of {len(rows)} seeds diverged, which leaves room for up to {100 * chance:.0f} % of "
        "runs to do so."
    )

"""Non-inferiority tests: which plans lose less than the margin against the best plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from autopeft.evidence.checks import check_margin
from autopeft.evidence.examples import INDEPENDENT, Examples
from autopeft.evidence.intervals import paired_interval


@dataclass(frozen=True, kw_only=True)
class Standing:
    """How one plan compares with the best plan, by a non-inferiority test.

    `bound` is the lower confidence bound of the plan's mean score minus that of the best, in units of the
    scores. `is_within` says that it lies above -margin: the plan is proven to lose less than the margin.
    """

    name: str
    bound: float
    is_within: bool


def plans_within_margin(
    tables: Mapping[str, npt.ArrayLike],
    *,
    best: str,
    margin: float,
    span: float | None = 1.0,
    examples: Examples = INDEPENDENT,
    pool: Sequence[npt.ArrayLike] = (),
) -> tuple[Standing, ...]:
    """Non-inferiority of some plans against the best: the chance of any wrong claim is at most 5 %.

    A single plan is tested by its one-sided 95 % bound, the low end of the two-sided 90 % interval. Testing
    several plans at 5 % each would err more often. So Holm's step-down procedure divides the 5 % by the
    number of plans that are not yet proven, and repeats until a round proves no further plan. The seeds'
    variance of the two plans is pooled with that of others (see `pooling`).

    Args:
        tables: Scores by name, (S, N) each, on the same examples and the same seeds in the same order. Where
            a plan has fewer seeds, the first common ones are compared, 2 at least.
        best: Name of the plan that the others are compared with; named before the scores were seen.
        margin: Largest loss that does not matter, > 0, in units of the scores.
        span: Width of the range of the scores; None where they have no bounds.
        examples: As for `paired_interval`.
        pool: Scores of plans whose seeds' variance is pooled with that of the compared ones, on the same
            examples and seeds. A plan with fewer seeds than are compared is left out.

    Returns:
        One standing per plan but the best, in the order of `tables`.

    Raises:
        SpecError: As `paired_interval`, or a margin that is not above 0.

    Source:
        Schuirmann 1987, J. Pharmacokinetics and Biopharmaceutics 15:657 (one of the two one-sided tests);
        Holm 1979, Scandinavian Journal of Statistics 6:65.

    Example:
        >>> equal = [[1] * 400, [1] * 400]
        >>> plans_within_margin({"big": equal, "small": equal}, best="big", margin=0.01)[0].is_within
        True
    """
    check_margin(margin)
    scores = {name: np.asarray(table, dtype=np.float64) for name, table in tables.items()}
    standings: dict[str, Standing] = {}
    unproven, n_before = [name for name in scores if name != best], len(scores)
    while len(unproven) < n_before and unproven:
        level, n_before = 1 - 2 * 0.05 / len(unproven), len(unproven)
        for name in unproven:
            n_common = min(len(scores[name]), len(scores[best]))
            pair = scores[name][:n_common], scores[best][:n_common]
            others = [other[:n_common] for other in map(np.asarray, pool) if len(other) >= n_common]
            others = [other for other in others if not any(np.array_equal(other, table) for table in pair)]
            everyone = (*pair, *others)
            bound = paired_interval(
                *pair, level=level, span=span, examples=examples, pool=everyone, margin=margin
            ).low
            standings[name] = Standing(name=name, bound=bound, is_within=bound > -margin)
        unproven = [name for name in unproven if not standings[name].is_within]
    return tuple(standings[name] for name in scores if name != best)

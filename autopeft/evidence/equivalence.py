"""Which plans are as good as the best, within the margin, and the smallest of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from autopeft.evidence.components import check_margin
from autopeft.evidence.intervals import paired_interval


@dataclass(frozen=True, kw_only=True)
class Standing:
    """How one plan stands against its reference (see `equivalence_set`).

    `mean_difference` and `bound` (one-sided, at the plan's own share of 5 %) are this plan less the
    reference that it is nearest to fail against; `is_within` says that the bound is above -margin.
    """

    name: str
    n_params: int
    mean_difference: float
    bound: float
    is_within: bool


@dataclass(frozen=True, kw_only=True)
class EquivalenceSet:
    """The plans in order of parameters, which of them are proven, and the smallest.

    `smallest` is the proven plan with the fewest parameters, a best that was named counting as proven; where
    there is none it is the one with the highest mean, and `is_proven` is false. `candidate` is the one with
    the fewest whose mean alone is within the margin. `sentence` says what holds.
    """

    standings: tuple[Standing, ...]
    smallest: str
    is_proven: bool
    candidate: str
    margin: float
    sentence: str


def equivalence_set(
    tables: Mapping[str, npt.ArrayLike],
    n_params: Mapping[str, int],
    *,
    margin: float,
    span: float | None = 1.0,
    best: str | None = None,
) -> EquivalenceSet:
    """The plans proven to lose less than `margin` against the best, all claims together at 5 %.

    With `best` named beforehand each plan is compared with it. Without, a plan has to be within the
    margin of every other, hence of the best one whichever that is: each comparison has
    to hold at the full 5 % then, and picking the best on these scores costs nothing (an intersection-union
    test). Several plans are several claims, so Holm's steps share the 5 % among those
    not yet proven: the chance that any plan is wrongly called within, the smallest too, is at most 5 %.

    Args:
        tables: Scores by name, (S, N) each on the same examples and the same seeds in the same order; where
            one has fewer seeds, each comparison uses the first common ones, 2 at least.
        n_params: Trainable parameters by name.
        margin: Largest loss that does not matter, > 0, in units of the scores.
        span: Width of the range of the scores; None where they have no bounds.
        best: Name of the plan that the others are held against.

    Source:
        Holm 1979, Scand. J. Statistics 6:65; Berger 1982, Technometrics 24:295.

    Example:
        >>> equal = [[1] * 400, [1] * 400]
        >>> found = equivalence_set({"big": equal, "small": equal}, {"big": 9, "small": 2}, margin=0.01)
        >>> found.smallest
        'small'
    """
    check_margin(margin)
    assert best is None or best in tables, best
    names = sorted(tables, key=lambda name: (n_params[name], name))
    scores = {name: np.asarray(tables[name], dtype=np.float64) for name in names}
    claims = [name for name in names if name != best]
    told: dict[str, Standing] = {}
    is_done = False
    while not is_done:  # Holm: what is proven frees its share for the others
        is_open = [name for name in claims if name not in told or not told[name].is_within]
        tail = 0.05 / max(len(is_open), 1)
        references = [best] if best is not None else names
        found = {
            name: _standing(name, n_params[name], scores, references, tail, (margin, span))
            for name in is_open
        }
        told |= found
        is_done = not any(standing.is_within for standing in found.values())
    if best is not None:
        itself = Standing(name=best, n_params=n_params[best], mean_difference=0.0, bound=0.0, is_within=True)
        told[best] = itself
    return _summary([told[name] for name in names], scores, margin=margin, n_claims=len(claims), best=best)


def _standing(
    name: str,
    n_params: int,
    scores: Mapping[str, npt.NDArray[np.float64]],
    references: Sequence[str],
    tail: float,
    limits: tuple[float, float | None],
) -> Standing:
    """The plan against each reference but itself; the one with the lowest bound is told."""
    margin, span = limits
    mean, bound = 0.0, 0.0
    for reference in references:
        if reference == name:
            continue
        common = min(len(scores[name]), len(scores[reference]))
        interval = paired_interval(
            scores[name][:common], scores[reference][:common], level=1 - 2 * tail, span=span
        )
        if interval.low < bound or len(references) == 1:
            mean, bound = interval.mean, interval.low
    return Standing(
        name=name, n_params=n_params, mean_difference=mean, bound=bound, is_within=bound > -margin
    )


def _summary(
    standings: Sequence[Standing],
    scores: Mapping[str, npt.NDArray[np.float64]],
    *,
    margin: float,
    n_claims: int,
    best: str | None,
) -> EquivalenceSet:
    means = {name: float(table.mean()) for name, table in scores.items()}
    top = best if best is not None else max(means, key=lambda name: means[name])
    proven = [standing.name for standing in standings if standing.is_within]
    near = [s.name for s in standings if s.mean_difference > -margin] or [top]
    smallest = (proven or [top])[0]
    against = "the best" if best is not None else "every other plan, so of the best"
    n_proven = f"{len(proven)} of {len(standings)} plans"
    claims = f"{n_claims} claim{'s' if n_claims != 1 else ''} held at 5 % together, by Holm's steps"
    end = f"the smallest is {smallest}" if proven else f"{smallest} has the highest mean"
    return EquivalenceSet(
        standings=tuple(standings),
        smallest=smallest,
        is_proven=bool(proven),
        candidate=near[0],
        margin=margin,
        sentence=f"{n_proven} are proven to be within {margin:g} of {against} ({claims}); {end}.",
    )

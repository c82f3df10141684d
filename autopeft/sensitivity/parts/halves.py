"""Two reducers of every score, one for each half of the batches: how well they agree, and their sum."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats
from torch import Tensor
from torch.utils._pytree import tree_leaves

from autopeft.errors import SpecError
from autopeft.extension import Reducer, Score
from autopeft.records import Site, SiteScores


class SplitHalves:
    """The scores' reducers; batches go to the first and the second half in turn."""

    def __init__(self, scores: Sequence[Score], sites: Sequence[Site]) -> None:
        self.scores = scores
        self.reducers = [[score.reducer(sites) for score in scores] for _ in range(2)]
        self._site_names = [site.name for site in sites]
        self._n_seen = [0, 0]
        self._agreements: dict[str, float | None] | None = None

    @property
    def n_seen(self) -> int:
        """Examples that both halves have seen together."""
        return sum(self._n_seen)

    @property
    def kept_bytes(self) -> int:
        """Bytes of the tensors that the reducers have kept."""
        states = [vars(reducer) for half in self.reducers for reducer in half if hasattr(reducer, "__dict__")]
        return sum(leaf.nbytes for leaf in tree_leaves(states) if isinstance(leaf, Tensor))

    def count(self, half: int, n_examples: int) -> None:
        """Note that one half has seen more examples."""
        self._n_seen[half] += n_examples
        self._agreements = None

    def agreements(self) -> dict[str, float | None]:
        """Score name -> Spearman's rho between the halves' values, of the scores that look at examples."""
        if self._agreements is None:
            pairs = zip(self.scores, *self.reducers, strict=True)
            self._agreements = {
                score.name: self._agreement(*halves) for score, *halves in pairs if score.reads_examples
            }
        return self._agreements

    def _agreement(self, first: Reducer, second: Reducer) -> float | None:
        halves = zip((first, second), self._n_seen, strict=True)
        values = [reducer.values(max(1, n_seen)) for reducer, n_seen in halves]
        names = [name for name in self._site_names if name in values[0] or name in values[1]]
        return rank_correlation(*([half.get(name, 0.0) for name in names] for half in values))

    def result(
        self, sites: Sequence[Site], *, dropped: frozenset[str], reached: set[str], notes: list[str]
    ) -> tuple[SiteScores, ...]:
        """The scores of both halves together, in the order of `sites`; adds the halves up, so call it once.

        Sites that were `dropped`, as they did not fit into memory, and sites without a value score 0. A score
        without values for some of the `reached` sites (without examples: of all sites) adds to `notes`.
        """
        agreements = self.agreements()
        results = []
        for score, first, second in zip(self.scores, *self.reducers, strict=True):
            if score.reads_examples:
                first.add(second)
            values = first.values(max(1, self.n_seen))
            if score.reads_examples:
                values = {name: value for name, value in values.items() if name not in dropped}
            n_missing = len((reached if score.reads_examples else set(self._site_names)) - values.keys())
            if n_missing:
                notes.append(f"{score.name} does not measure {n_missing} of the sites; they score 0.")
            for name, value in values.items():
                if not math.isfinite(value):
                    raise SpecError(
                        f"The score {score.name} is {value} at {name}; it should be finite and at least 0. "
                        "Load the model in fp32, or check its weights."
                    )
                if value < 0:
                    raise SpecError(
                        f"The score {score.name} is {value} at {name}; a score gives at least 0. Choose "
                        "another score, or mend this one."
                    )
            results.append(
                SiteScores(
                    name=score.name,
                    values=tuple(values.get(site.name, 0.0) for site in sites),
                    split_half=agreements.get(score.name),
                    n_examples=self.n_seen if score.reads_examples else 0,
                )
            )
        return tuple(results)


def rank_correlation(a: Sequence[float | None], b: Sequence[float | None]) -> float | None:
    """Compare the order of two lists of equal length: Spearman's rho in [-1, 1]; ties share their mean rank.

    Pairs where either side is None or not finite (a diverged run) are left out. None is returned where fewer
    than 3 pairs remain, or one side is constant and so has no order to compare. Below 10 pairs it is a hint.

    Example:
        >>> rank_correlation([0.1, 0.2, 0.3, float("nan")], [1.0, 2.0, 3.0, 0.0])
        1.0
    """
    x, y = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    assert x.shape == y.shape and x.ndim == 1, f"{x.shape} against {y.shape}"
    is_finite = np.isfinite(x) & np.isfinite(y)
    x, y = x[is_finite], y[is_finite]
    if x.size < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    # Rounding can leave the coefficient a hair outside its range.
    return float(np.clip(stats.spearmanr(x, y).statistic, -1.0, 1.0))

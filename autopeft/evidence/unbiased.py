"""The mean difference without the bias that stopping at a high (or low) mean causes.

The mean at the first look is unbiased, because nothing was selected yet. Seeds are exchangeable: every
order of the used seeds that would not have stopped earlier was as likely as the order that was seen. So the
mean at the first look, averaged over all those orders, is unbiased too (Rao-Blackwell theorem). This holds
for every distribution of scores and every stopping rule that looks only at the scores of the seeds so far.
Ten seeds need 1024 subsets, not 3,628,800 orders.

Source:
    Emerson & Fleming 1990, Biometrika 77:875 do it for normal means with known variance; that
    permutations do it without either is this project's.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from autopeft.evidence.variance import Floats, Moments


def subsets(n_seeds: int) -> npt.NDArray[np.int64]:
    """All subsets of seeds, shape (2**S, S): row b holds the binary digits of b, the first seed lowest."""
    rows: npt.NDArray[np.int64] = (np.arange(2**n_seeds)[:, None] >> np.arange(n_seeds)) & 1
    return rows


def prefixes(n_seeds: int) -> npt.NDArray[np.int64]:
    """Rows of `subsets` that hold the first 1, 2, ... S seeds."""
    return 2 ** np.arange(1, n_seeds + 1) - 1


def unbiased_means(
    differences: Moments, stops: npt.NDArray[np.bool_], n_seeds: npt.NDArray[np.int64], *, first_look: int
) -> Floats:
    """Mean at the first look (R,), averaged over the orders of the used seeds that stop no earlier.

    `stops` (R, 2**S) says whether a look at each of the `subsets` of seeds would stop, `n_seeds` (R,) how
    many each confirmation used. With fewer seeds than at the `first_look` it is the plain mean.
    """
    n_runs, most = differences.rows.shape
    masks = subsets(most)
    sizes = masks.sum(axis=1)
    n_orders, total = np.zeros((2, 2**most, n_runs))
    goes_on = np.ascontiguousarray(~stops.T)
    rows = np.ascontiguousarray(differences.rows.T)
    for row in np.argsort(sizes, kind="stable"):
        members = np.flatnonzero(masks[row])
        if 0 < sizes[row] <= first_look:
            n_orders[row], total[row] = 1.0, rows[members].mean(axis=0)
        for seed in members if sizes[row] > first_look else ():
            before = row - 2**seed
            n_orders[row] += goes_on[before] * n_orders[before]
            total[row] += goes_on[before] * total[before]
    used = prefixes(most)[n_seeds - 1], np.arange(n_runs)
    return np.asarray(differences.centre + total[used] / n_orders[used])

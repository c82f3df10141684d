"""What is known of the examples of a split beside their scores, and groups of them as units of a sample.

Examples that belong together (the sentences of a document, the recordings of a speaker) are alike, and tell
less than as many independent ones. A new user brings new groups. So a table of scores (S, N) whose examples
lie in G groups is turned into one (S, G), whose columns are the groups. They have the jackknife's
pseudo-values: with n_g examples in group g, T_g the sum of their scores and m the mean of all N,

    score of the group = m + c_g - mean of c,    c_g = (G - 1) (T_g - n_g m) / (N - n_g).

The mean of a seed stays as it is. For groups of equal size these are the means of the groups. Student's t has
one degree of freedom less than the effective number of groups, N**2 / sum of n_g**2, which is G for groups of
equal size; it has one at least.

On 100 to 1300 normal scores with a correlation of 0.05 to 0.5 within groups, 5 to 200 groups of equal or
very different size, 95 % intervals hold the truth in 94.3 to 96.4 %, and in 98 to 100 % where one group has
half of the examples or more. Rejected: the sandwich estimate with G - 1 degrees of freedom (89 % for
log-normal sizes, 61 % where one group has half of the examples).

Source:
    MacKinnon, Nielsen & Webb 2023, Journal of Applied Econometrics 38:671 (the cluster jackknife); Carter,
    Schnepel & Steigerwald 2017, Review of Economics and Statistics 99:698 (effective number of clusters). The
    scores of groups are linear in the scores of examples, so that differences, pooling and all looks follow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

_ROUNDING = 1e-14  # variance of scores of about 1 that are equal but for one float32 rounding


@dataclass(frozen=True, kw_only=True)
class Examples:
    """What is known of the examples of a split beside their scores.

    `step`, > 0, is by how much an example's scores differ that one plan alone has right; None stands for the
    span of the scores. Without a span None adds no pseudo-examples, for scores that no two plans share
    (losses). `groups` has one number for each example, equal for examples that belong together; empty where
    all are independent. Examples that are all of one group count as independent: nothing tells then how much
    groups differ.
    """

    step: float | None = None
    groups: Sequence[int] = ()


INDEPENDENT = Examples()


def units(
    tables: npt.NDArray[np.float64], groups: Sequence[int]
) -> tuple[npt.NDArray[np.float64], float, float, npt.NDArray[np.float64] | None]:
    """The units of tables (..., S, N): groups, or the examples where each is a group or all are of one.

    Returns:
        Scores (..., S, U) of independent units; the degrees of freedom of the variance between units, >= 1;
        what an example weighs in a unit, U / N; and the variance of a mean over units in multiples of that
        over independent examples, shape (...), >= 1, None where examples are the units.

    Example:
        >>> units(np.array([[1.0, 0.0, 1.0, 1.0]]), [7, 7, 8, 8])[:3]
        (array([[0.5, 1. ]]), 1.0, 0.5)
    """
    n = tables.shape[-1]
    assert len(groups) in (0, n), f"{len(groups)} groups of {n} examples"
    _, numbers, sizes = np.unique(np.asarray(groups), return_inverse=True, return_counts=True)
    if not 1 < (n_groups := len(sizes)) < n:
        return tables, n - 1, 1.0, None
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    sums = np.add.reduceat(tables[..., np.argsort(numbers, kind="stable")], starts, axis=-1)
    mean = tables.mean(axis=-1, keepdims=True)
    moved = (n_groups - 1) * (sums - sizes * mean) / (n - sizes)
    freedom = max(n**2 / float((sizes**2).sum()) - 1, 1.0)
    by_group = mean + moved - moved.mean(axis=-1, keepdims=True)
    grouped, single = (table.mean(axis=-2).var(axis=-1, ddof=1) for table in (by_group, tables))
    effect, scale = np.ones_like(single), np.maximum(mean.mean(axis=(-2, -1)) ** 2, 1.0)
    np.divide(grouped * n, single * n_groups, out=effect, where=single > _ROUNDING * scale)
    return by_group, freedom, n_groups / n, np.maximum(effect, 1.0)

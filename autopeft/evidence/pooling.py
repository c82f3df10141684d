"""The variance between seeds, pooled over plans that ran on the same seeds.

Two seeds give the difference of two plans one degree of freedom: the 95 % quantile of Student's t is then
12.7 standard errors, and no gain is ever proven. Plans of one search differ little in how much a seed moves
them. So the seeds' mean square of a difference is taken to be the largest of

    MS(difference),    MS(best) + MS(baseline),    2 x the mean of MS over all K pooled plans,

with K (S - 1) degrees of freedom. The last two are too large where the plans of a seed move together, as
they do with a common head and a common order of the data. The first two hold where the compared plans are
noisier than the others.

False claims by simulation (`reports/studies/confirmation_calibration.py pooled`, this project): at most 2.5 %
say `better` of equal plans while the seeds move one of the two compared plans up to twice as much as the
others.

Source:
    Smyth 2004, Statistical Applications in Genetics and Molecular Biology 3:3, moderates a variance of few
    replicates by those of other genes. We take the largest estimate in place of a weighted mean, since too
    narrow an interval is worse here than too wide a one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from autopeft.evidence.variance import MeanSquares, Moments


def pooled(squares: MeanSquares, plans: Sequence[Moments], chosen: npt.ArrayLike) -> MeanSquares:
    """The mean squares of a difference with the seeds' variance of some plans pooled.

    `plans` are the scores of each plan, the two that are compared first; empty pools nothing. `chosen` says
    which seeds `squares` are of, as in `Moments.squares`. The design effect of groups is at least that of the
    two plans' own scores, which few differences alone would not show.
    """
    if not plans:
        return squares
    by_plan = [plan.squares(chosen, pseudo=(), floor=0.0) for plan in plans]
    first, second, *_ = by_plan
    mean = np.mean([each.seed for each in by_plan], axis=0)
    seed = np.maximum.reduce([squares.seed, first.seed + second.seed, 2 * mean])
    of_pair = (first.design_effect + second.design_effect) / 2
    effect = np.maximum(squares.design_effect, of_pair)
    return replace(squares, seed=seed, freedom=len(plans) * (squares.n_seeds - 1), design_effect=effect)

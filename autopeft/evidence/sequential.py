"""Confirmation seed by seed: stop as soon as the interval decides, and pay for having looked.

    seen = look(best_scores, baseline_scores, planned_seeds=5, margin=0.01, span=1.0)
    if seen.is_decided: ...  # no further seed is needed

is called after every seed with all the scores so far, in seed order. It looks from the third
seed on (the second, where two are planned) and returns the first look that decides, so that
it may also be called late or again. Where something outside the scores (time, a full disk)
ends it after n seeds, call it once more with `planned_seeds=n`: no earlier bound of that design
is tighter than the one that was used, so it errs no more often.

**What is held.** With best and baseline alike in truth, `better` or `worse` is said in at most
5 % of confirmations (2.5 % each), whatever the share of seeds and examples in the noise, however
often it looked and whatever made it stop. Seeds and examples both count: m_k, the mean after k
seeds, has variance w + v / k, and w, the examples' part, stays when seeds are added. So
information does not grow like k, and looks at few seeds are alike the more w weighs. No
information is estimated to steer the early looks (a small v by chance would spend more and
seem larger at once); look k of K has the two-sided tail

    p_k = alpha g (k / K)**3,    p_K = alpha (g + (1 - g) R**2),

where R is the share of the examples in the variance at the end (1: all looks were the same look,
and nothing has to be paid), with g such that the whole procedure errs in alpha of all cases at the
least favourable w / v.

**Interval.** While open it is that of the bound, tail p_k. At a stop the looks are paid for where they
cost, at 0, and the interval may be narrower: its tail is p_k**s alpha**(1 - s), s = 0.2, as long
as label and interval agree. Above 0 (`better`) its low end is never below that of the bound, which is
above 0; where neither `better` nor `worse` was said, it holds 0.
**Mean.** See `unbiased`.

Source:
    Jennison & Turnbull 1999, "Group Sequential Methods", chapters 5 and 9 (nominal levels, repeated
    intervals); Lan & DeMets 1983, Biometrika 70:659. The bounds and s are this project's,
    reports/LOG.md 2026-11-25, by `reports/studies/confirmation_calibration.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special, stats

from autopeft.errors import SpecError
from autopeft.evidence.components import (
    MeanSquares,
    Moments,
    Table,
    check_margin,
    checked_pair,
    half_width,
    moments,
    pseudo_differences,
    rounding_floor,
)
from autopeft.evidence.intervals import Interval
from autopeft.evidence.unbiased import prefixes, subsets, unbiased_means

MAX_SEEDS = 10
# Labels as numbers, for arrays.
OPEN, BETTER, WORSE, EQUIVALENT, FUTILE = range(5)
_WORDS = ("inconclusive", "better", "worse", "equivalent", "inconclusive")
# g of p_k by planned seeds, at alpha 0.1, 0.05, 0.02 and 0.005 (simulated, 150,000 confirmations each).
_ALPHAS = (0.1, 0.05, 0.02, 0.005)
_SHARES = {
    2: (1.0, 1.0, 1.0, 0.98),
    3: (1.0, 0.995, 0.9, 0.05),
    4: (0.815, 0.725, 0.555, 0.12),
    5: (0.75, 0.67, 0.505, 0.165),
    6: (0.705, 0.62, 0.49, 0.22),
    7: (0.695, 0.62, 0.495, 0.255),
    8: (0.675, 0.59, 0.49, 0.275),
    9: (0.67, 0.59, 0.48, 0.285),
    10: (0.665, 0.585, 0.48, 0.29),
}
_STOPPED_POWER = 0.2  # s above
_LEAST_CHANCE = 0.05  # of a decision by the planned seeds; below it more of them are futile
_OPTIMISM = 0.9  # quantile of the seeds' variance that futility grants


@dataclass(frozen=True, kw_only=True)
class Design:
    """How a confirmation is judged; `margin` > 0 and `span` in units of the scores.

    `n_compared` plans are compared with the baseline on this split, and the best of them is reported.
    """

    planned_seeds: int
    margin: float
    span: float | None = 1.0
    n_compared: int = 1

    @property
    def first_look(self) -> int:
        """Seeds at the first look."""
        return min(3, self.planned_seeds)

    def tail(self, squares: MeanSquares, alpha: float) -> Table:
        """Two-sided tail of the bound at these tables, of `alpha` for all looks and comparisons."""
        each = alpha / self.n_compared
        share = float(np.interp(-np.log(each), -np.log(_ALPHAS), _SHARES[self.planned_seeds]))
        if squares.n_seeds < self.planned_seeds:
            return np.asarray(each * share * (squares.n_seeds / self.planned_seeds) ** 3)
        return np.asarray(each * (share + (1 - share) * squares.example_share**2))


@dataclass(frozen=True, kw_only=True)
class Look:
    """What the scores so far say of best against baseline; differences favour best where positive.

    `label` is better, worse, equivalent or inconclusive; `is_decided` says that no further seed is
    needed, and `reason` why: the label, `futile` (the planned seeds would not decide either), or
    `planned` (all are there); it is empty while open. `interval` (95 %; `mean` the
    unbiased one) and `interval_90` (of the equivalence test) allow for the looks; None before two seeds.
    `mean_difference` is the plain mean. `n_seeds` are those used. The worst seed is best's lowest mean.
    """

    n_seeds: int
    planned_seeds: int
    label: str
    is_decided: bool
    reason: str
    mean_difference: float
    interval: Interval | None
    interval_90: tuple[float, float] | None
    margin: float
    n_compared: int
    worst_seed: int
    worst_score: float


def look(
    best: npt.ArrayLike,
    baseline: npt.ArrayLike,
    *,
    planned_seeds: int,
    margin: float,
    span: float | None = 1.0,
    n_compared: int = 1,
) -> Look:
    """The first look at the scores that decides, or the one at all of them.

    Args:
        best: Scores so far, shape (S, N), 1 <= S <= planned_seeds, in seed order; larger is better.
        baseline: Scores of the same seeds and examples.
        planned_seeds: Most seeds there will be, 2 to 10, as fixed before the first.
        margin: Largest difference that does not matter, > 0, in units of the scores.
        span: Width of the range of the scores; None where they have no bounds.
        n_compared: Plans compared with the baseline on this split, >= 1. Naming one before the
            confirmation costs nothing; choosing the best of n there divides alpha by n.

    Raises:
        SpecError: As `paired_interval`, or planned seeds outside 2 to 10.

    Example:
        >>> seen = look([[1] * 90] * 3, [[0, 1] * 45] * 3, planned_seeds=5, margin=0.01)
        >>> seen.label, seen.is_decided, seen.n_seeds
        ('better', True, 3)
    """
    check_planned(planned_seeds)
    check_margin(margin)
    assert n_compared >= 1, n_compared
    difference, scale = checked_pair(best, baseline, span)
    assert len(difference) <= planned_seeds, f"{len(difference)} seeds of {planned_seeds} planned"
    design = Design(planned_seeds=planned_seeds, margin=margin, span=span, n_compared=n_compared)
    stop = run(moments(difference[None]), design, floor=rounding_floor(scale))
    n_seeds = int(stop.n_seeds[0])
    return _look(stop, design, np.asarray(best, dtype=np.float64)[:n_seeds])


def check_planned(planned_seeds: int) -> None:
    """Refuses numbers of seeds that the bounds were not made for."""
    if not 2 <= planned_seeds <= MAX_SEEDS:
        raise SpecError(
            f"A confirmation of {planned_seeds} seeds was asked for and 2 to {MAX_SEEDS} are possible; "
            "change --confirm-seeds."
        )


@dataclass(frozen=True, kw_only=True)
class Stops:
    """Where each of R confirmations stopped; every array has shape (R,).

    `code` is one of OPEN, BETTER, WORSE, EQUIVALENT, FUTILE; NaN bounds before two seeds.
    """

    n_seeds: npt.NDArray[np.int64]
    code: npt.NDArray[np.int64]
    mean: Table
    unbiased: Table
    std_error: Table
    low: Table
    high: Table
    low_90: Table
    high_90: Table


def run(differences: Moments, design: Design, *, floor: float = 0.0) -> Stops:
    """Looks at R confirmations of S seeds each, one seed after another.

    Args:
        differences: Moments of tables (R, S, N), S <= planned seeds.
        design: How they are judged.
        floor: Least variance of a mean over the examples.
    """
    n_seeds = differences.rows.shape[-1]
    pseudo = pseudo_differences(design.span)
    codes = np.zeros((len(differences.rows), 2**n_seeds), dtype=np.int64)
    masks = subsets(n_seeds)
    for size in range(design.first_look, n_seeds + 1):
        at = np.flatnonzero(masks.sum(axis=1) == size)
        codes[:, at] = decide(differences.squares(masks[at], pseudo=pseudo, floor=floor), design)
    first = codes[:, prefixes(n_seeds)]
    stopped = np.where((first != OPEN).any(axis=1), (first != OPEN).argmax(axis=1) + 1, n_seeds)
    unbiased = unbiased_means(differences, codes != OPEN, stopped, first_look=design.first_look)
    outcome = _Outcome(len(stopped))
    for size in np.unique(stopped):
        here = np.flatnonzero(stopped == size)
        chosen = masks[prefixes(n_seeds)[size - 1]][None]
        squares = differences.take(here).squares(chosen, pseudo=pseudo, floor=floor).flat()
        outcome.fill(here, squares, first[here, size - 1], unbiased[here], design)
    return outcome.stops(stopped, first[np.arange(len(stopped)), stopped - 1], unbiased)


def decide(squares: MeanSquares, design: Design) -> npt.NDArray[np.int64]:
    """The code of a look at each table, all of them of `squares.n_seeds` seeds."""
    wide = half_width(squares, design.tail(squares, 0.05))
    narrow = half_width(squares, design.tail(squares, 0.10))
    cases = [squares.mean > wide, squares.mean < -wide, np.abs(squares.mean) + narrow < design.margin]
    codes = [BETTER, WORSE, EQUIVALENT]
    if squares.n_seeds < design.planned_seeds:
        cases, codes = [*cases, _chance(squares, design) < _LEAST_CHANCE], [*codes, FUTILE]
    return np.asarray(np.select(cases, codes, default=OPEN))


def _chance(squares: MeanSquares, design: Design) -> Table:
    """Chance that the planned seeds decide, the mean as it is, with a kind variance of seeds and bound."""
    now, last, n = squares.n_seeds, design.planned_seeds, squares.n_examples
    kind = (now - 1) / float(stats.chi2.ppf(_OPTIMISM, now - 1))
    at_end = MeanSquares(
        mean=squares.mean,
        seed=squares.seed * kind,
        example=squares.residual + squares.excess * last / now,
        residual=squares.residual,
        n_seeds=last,
        n_examples=n,
    )
    wide = half_width(at_end, 0.05 / design.n_compared)
    narrow = np.maximum(design.margin - half_width(at_end, 0.10 / design.n_compared), 0.0)
    step = np.sqrt(squares.seed / n * (1 / now - 1 / last)) + 1e-9 * wide + 1e-150  # never 0

    far = float(special.stdtrit(now - 1, 1 - _LEAST_CHANCE))
    chance = np.ones_like(wide)
    # Elsewhere one bound alone is near enough. Student's t is slow, and this runs for thousands of subsets.
    at = np.abs(squares.mean) < wide - far * step

    chance[at] = _beyond(wide[at], squares.mean[at], step[at], now - 1)
    at &= narrow > 0
    chance[at] += 1 - _beyond(narrow[at], squares.mean[at], step[at], now - 1)
    return chance


def _beyond(bound: Table, mean: Table, step: Table, freedom: int) -> Table:
    """Chance that mean + step t, t of so many degrees of freedom, leaves ± bound."""
    above, below = ((sign * mean - bound) / step for sign in (1, -1))
    return np.asarray(special.stdtr(freedom, above) + special.stdtr(freedom, below))


class _Outcome:
    """Intervals of R confirmations, filled in by the number of seeds at which they stopped."""

    def __init__(self, n_runs: int) -> None:
        self.mean, self.std_error, self.low, self.high, self.low_90, self.high_90 = np.full(
            (6, n_runs), np.nan
        )

    def fill(
        self, here: npt.NDArray[np.int64], squares: MeanSquares, codes: Table, unbiased: Table, design: Design
    ) -> None:
        self.mean[here] = squares.mean
        if squares.n_seeds < 2:
            return
        bound = np.inf if design.span is None else design.span
        self.std_error[here] = squares.std_error
        narrow = half_width(squares, design.tail(squares, 0.10))
        self.low_90[here], self.high_90[here] = squares.mean - narrow, squares.mean + narrow
        low, high = _interval(squares, codes, unbiased, design)
        # Two seeds and few examples would reach beyond what there is.
        self.low[here], self.high[here] = np.maximum(low, -bound), np.minimum(high, bound)

    def stops(self, n_seeds: npt.NDArray[np.int64], code: npt.NDArray[np.int64], unbiased: Table) -> Stops:
        return Stops(
            n_seeds=n_seeds,
            code=code,
            mean=self.mean,
            unbiased=unbiased,
            std_error=self.std_error,
            low=self.low,
            high=self.high,
            low_90=self.low_90,
            high_90=self.high_90,
        )


def _interval(squares: MeanSquares, codes: Table, unbiased: Table, design: Design) -> tuple[Table, Table]:
    """The 95 % interval: the bound itself while open, and at a stop a narrower one on its side of 0."""
    alpha, tail = 0.05 / design.n_compared, design.tail(squares, 0.05)
    wide = half_width(squares, tail)
    narrow = half_width(squares, tail**_STOPPED_POWER * alpha ** (1 - _STOPPED_POWER))
    mean, zero = squares.mean, np.zeros_like(wide)
    is_open = (codes == OPEN) & (squares.n_seeds < design.planned_seeds)
    low = np.select(
        [is_open, codes == BETTER, codes == WORSE],
        [mean - wide, np.maximum(mean - wide, unbiased - narrow), mean - narrow],
        default=np.minimum(mean - narrow, zero),
    )
    high = np.select(
        [is_open, codes == WORSE, codes == BETTER],
        [mean + wide, np.minimum(mean + wide, unbiased + narrow), mean + narrow],
        default=np.maximum(mean + narrow, zero),
    )
    return low, high


def _look(stop: Stops, design: Design, best: Table) -> Look:
    n_seeds, code = int(stop.n_seeds[0]), int(stop.code[0])
    worst = best.mean(axis=1)
    is_last = n_seeds == design.planned_seeds
    label = _WORDS[code]
    reason = "futile" if code == FUTILE else label if code != OPEN else "planned" if is_last else ""
    interval = None
    if n_seeds >= 2:
        low, high = float(stop.low[0]), float(stop.high[0])
        interval = Interval(
            # It left the interval in none of the simulated confirmations; if ever, the end is told.
            mean=min(max(float(stop.unbiased[0]), low), high),
            std_error=float(stop.std_error[0]),
            low=low,
            high=high,
            level=0.95,
        )
    return Look(
        n_seeds=n_seeds,
        planned_seeds=design.planned_seeds,
        label=label,
        is_decided=reason != "",
        reason=reason,
        mean_difference=float(stop.mean[0]),
        interval=interval,
        interval_90=(float(stop.low_90[0]), float(stop.high_90[0])) if n_seeds >= 2 else None,
        margin=design.margin,
        n_compared=design.n_compared,
        worst_seed=int(worst.argmin()),
        worst_score=float(worst.min()),
    )

"""A confirmation that is looked at after every seed and stops as soon as the interval decides.

    seen = look(best_scores, baseline_scores, planned_seeds=5, margin=0.01, span=1.0)
    if seen.is_decided: ...  # no further seed is needed

`look` is called after every seed with all scores so far, in seed order. It tests from the third seed on
(the second if two are planned) and returns the first look that decides, so that it may also be called late
or again. Where something else (time, a full disk) ends the confirmation after n seeds, call it once more
with `planned_seeds=n`: no earlier bound of that design is tighter than the one that was used, so it errs no
more often. `bounds` has the test.

**Interval.** While open it is that of the bound, with tail probability p_k (see `bounds`). At a stop only
the side towards 0 has to pay for the looks, and the interval may be narrower: its tail is p_k**s alpha**(1
- s), s = 0.2, as long as label and interval agree. For `better` its low end is never below that of the
bound, which is above 0, and correspondingly for `worse`; for any other label it holds 0.

Source:
    Jennison & Turnbull 1999, "Group Sequential Methods", chapter 9 (repeated confidence intervals). s is this
    project's, reports/LOG.md 2026-11-25, by `reports/studies/confirmation_calibration.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from autopeft.errors import SpecError
from autopeft.evidence.bounds import BETTER, FUTILE, MAX_SEEDS, OPEN, WORSE, Design, decide
from autopeft.evidence.checks import check_margin, checked_pair, checked_table
from autopeft.evidence.examples import INDEPENDENT, Examples
from autopeft.evidence.intervals import Interval
from autopeft.evidence.pooling import pooled
from autopeft.evidence.variance import (
    Floats,
    MeanSquares,
    Moments,
    half_width,
    moments,
    pseudo_differences,
    rounding_floor,
)

_LABELS = ("inconclusive", "better", "worse", "equivalent", "inconclusive")  # by decision, in their order
_STOPPED_POWER = 0.2  # s above
_INTERVALS = ("std_error", "low", "high", "low_90", "high_90")


@dataclass(frozen=True, kw_only=True)
class Look:
    """What the scores so far say about best minus baseline; positive differences favour the best plan.

    `label` is better, worse, equivalent or inconclusive. `reason` says why no further seed is needed: the
    label, `futile` (the planned seeds would hardly decide either), or `planned` (all are there); it is empty
    while open. `interval` (95 %, with the unbiased mean) and `interval_90` (of the equivalence test) allow
    for the number of looks; both are None before two seeds. `mean_difference` is the plain mean.
    """

    n_seeds: int
    planned_seeds: int
    label: str
    reason: str
    mean_difference: float
    interval: Interval | None
    interval_90: tuple[float, float] | None
    margin: float

    @property
    def is_decided(self) -> bool:
        """Whether no further seed is needed."""
        return self.reason != ""


def look(
    best: npt.ArrayLike,
    baseline: npt.ArrayLike,
    *,
    planned_seeds: int,
    margin: float,
    span: float | None = 1.0,
    examples: Examples = INDEPENDENT,
    others: Sequence[npt.ArrayLike] = (),
) -> Look:
    """Result of the first look that decides, or of the look at all scores so far: a group sequential test.

    Args:
        best: Scores so far, shape (S, N), 1 <= S <= planned_seeds, in seed order; larger is better.
        baseline: Scores of the same seeds and examples.
        planned_seeds: Most seeds there will be, 2 to 10, as fixed before the first.
        margin: Largest difference that does not matter, > 0, in units of the scores.
        span: Width of the range of the scores; None where they have no bounds.
        examples: As for `paired_interval`.
        others: Scores of further plans on the same seeds and examples, whose seeds' variance is pooled with
            that of best and baseline (see `pooling`).

    Raises:
        SpecError: As `paired_interval`, or planned seeds outside 2 to 10.

    Example:
        >>> seen = look([[1] * 90] * 3, [[0, 1] * 45] * 3, planned_seeds=5, margin=0.01)
        >>> seen.label, seen.is_decided, seen.n_seeds
        ('better', True, 3)
    """
    if not 2 <= planned_seeds <= MAX_SEEDS:  # the bounds were simulated for these alone
        raise SpecError(
            f"A confirmation of {planned_seeds} seeds was requested and 2 to {MAX_SEEDS} are possible; "
            "change --confirm-seeds."
        )
    check_margin(margin)
    difference, scale = checked_pair(best, baseline, span)
    assert len(difference) <= planned_seeds, f"{len(difference)} seeds of {planned_seeds} planned"
    design = Design(planned_seeds=planned_seeds, margin=margin, span=span, step=examples.step)
    tables = [checked_table(table) for table in (best, baseline, *others)]
    plans = [moments(table[None], examples.groups) for table in tables]
    differences = moments(difference[None], examples.groups)
    stops = find_stops(differences, design, floor=rounding_floor(scale), plans=plans)
    only = {name: array[0].item() for name, array in vars(stops).items()}
    n_seeds, code, low, high = (only[name] for name in ("n_seeds", "code", "low", "high"))
    label = _LABELS[code]
    open_reason = "planned" if n_seeds == planned_seeds else ""
    # The unbiased mean left the interval in no simulated confirmation; if it does, the end is taken.
    mean = min(max(only["unbiased"], low), high)
    interval = Interval(mean=mean, std_error=only["std_error"], low=low, high=high, level=0.95)
    return Look(
        n_seeds=n_seeds,
        planned_seeds=planned_seeds,
        label=label,
        reason={OPEN: open_reason, FUTILE: "futile"}.get(code, label),
        mean_difference=only["mean"],
        interval=interval if n_seeds >= 2 else None,
        interval_90=(only["low_90"], only["high_90"]) if n_seeds >= 2 else None,
        margin=margin,
    )


@dataclass(frozen=True, kw_only=True)
class Stops:
    """Where each of R confirmations stopped; every array has shape (R,).

    `code` is one of OPEN, BETTER, WORSE, EQUIVALENT, FUTILE; all but the means are NaN before two seeds.
    """

    n_seeds: npt.NDArray[np.int64]
    code: npt.NDArray[np.int64]
    mean: Floats
    unbiased: Floats
    std_error: Floats
    low: Floats
    high: Floats
    low_90: Floats
    high_90: Floats


def find_stops(
    differences: Moments, design: Design, *, floor: float = 0.0, plans: Sequence[Moments] = ()
) -> Stops:
    """Where R confirmations stop if looked at after every seed; the moments are of tables (R, S, N).

    `floor` is a lower bound of the variance of a mean over the examples. S is at most the planned seeds.
    `plans` are the scores of the plans whose seeds' variance is pooled, the two that are compared first;
    without them the differences alone tell the variance.
    """
    n_runs, n_seeds = differences.rows.shape
    pseudo = pseudo_differences(design.step or design.span)
    # All subsets are judged, and not the prefixes alone: the unbiased mean needs them.
    codes = np.zeros((n_runs, 2**n_seeds), dtype=np.int64)
    masks = _subsets(n_seeds)
    for size in range(design.first_look, n_seeds + 1):
        at = np.flatnonzero(masks.sum(axis=1) == size)
        squares = pooled(differences.squares(masks[at], pseudo=pseudo, floor=floor), plans, masks[at])
        codes[:, at] = decide(squares, design)
    first = codes[:, _prefixes(n_seeds)]
    stopped = np.where((first != OPEN).any(axis=1), (first != OPEN).argmax(axis=1) + 1, n_seeds)
    code = first[np.arange(n_runs), stopped - 1]
    unbiased = _unbiased_means(differences, codes != OPEN, stopped, first_look=design.first_look)
    numbers = {name: np.full(n_runs, np.nan) for name in (*_INTERVALS, "mean")}
    for size in np.unique(stopped):
        here = np.flatnonzero(stopped == size)
        chosen = masks[_prefixes(n_seeds)[size - 1]]
        squares = differences.take(here).squares(chosen, pseudo=pseudo, floor=floor)
        squares = pooled(squares, [plan.take(here) for plan in plans], chosen)
        numbers["mean"][here] = squares.mean
        if size >= 2:
            values = _intervals(squares, code[here], unbiased[here], design)
            for name, array in zip(_INTERVALS, values, strict=True):
                numbers[name][here] = array
    return Stops(n_seeds=stopped, code=code, unbiased=unbiased, **numbers)


def _intervals(
    squares: MeanSquares, codes: npt.NDArray[np.int64], unbiased: Floats, design: Design
) -> tuple[Floats, ...]:
    """Standard error and both intervals, in the order of `_INTERVALS`."""
    alpha = 0.05
    tail = design.tail(squares, alpha)
    wide = half_width(squares, tail)
    narrow = half_width(squares, tail**_STOPPED_POWER * alpha ** (1 - _STOPPED_POWER))
    mean, zero = squares.mean, np.zeros_like(wide)
    # The 95 % interval is the bound itself while open, and at a stop a narrower one on its side of 0.
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
    of_margin = half_width(design.at_margin(squares), design.tail(squares, 0.10))
    # Few examples can give a half-width beyond the range of differences.
    bound = np.inf if design.span is None else design.span
    return (
        squares.std_error,
        np.maximum(low, -bound),
        np.minimum(high, bound),
        np.maximum(mean - of_margin, -bound),
        np.minimum(mean + of_margin, bound),
    )


def _subsets(n_seeds: int) -> npt.NDArray[np.int64]:
    """All subsets of seeds, shape (2**S, S): row b holds the binary digits of b, the first seed lowest."""
    rows: npt.NDArray[np.int64] = (np.arange(2**n_seeds)[:, None] >> np.arange(n_seeds)) & 1
    return rows


def _prefixes(n_seeds: int) -> npt.NDArray[np.int64]:
    """Rows of `_subsets` that hold the first 1, 2, ... S seeds."""
    return 2 ** np.arange(1, n_seeds + 1) - 1


def _unbiased_means(
    differences: Moments, stops: npt.NDArray[np.bool_], n_seeds: npt.NDArray[np.int64], *, first_look: int
) -> Floats:
    """Mean at the first look (R,), averaged over the orders of the used seeds that stop no earlier.

    It lacks the bias that stopping at a high (or low) mean causes. The mean at the first look is unbiased,
    because nothing was selected yet. Seeds are exchangeable: every order of the used seeds that would not
    have stopped earlier was as likely as the order that was seen. So its average over all those orders is
    unbiased too (Rao-Blackwell theorem). This holds for every distribution of scores and every stopping rule
    that looks only at the scores of the seeds so far. Ten seeds need 1024 subsets, not 3,628,800 orders.

    `stops` (R, 2**S) says whether a look at each of the `_subsets` of seeds would stop, `n_seeds` (R,) how
    many each confirmation used. With fewer seeds than at the `first_look` it is the plain mean.

    Source:
        Emerson & Fleming 1990, Biometrika 77:875 do it for normal means with known variance; that
        permutations do it without either is this project's.
    """
    n_runs, most = differences.rows.shape
    masks = _subsets(most)
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
    used = _prefixes(most)[n_seeds - 1], np.arange(n_runs)
    return np.asarray(differences.centre + total[used] / n_orders[used])

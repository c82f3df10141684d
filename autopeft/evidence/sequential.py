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
bound, which is above 0, and correspondingly for `worse`; for any other label it holds 0. **Mean.** See
`unbiased`.

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
from autopeft.evidence.unbiased import prefixes, subsets, unbiased_means
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
    return _look(stops, design)


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
    masks = subsets(n_seeds)
    for size in range(design.first_look, n_seeds + 1):
        at = np.flatnonzero(masks.sum(axis=1) == size)
        squares = pooled(differences.squares(masks[at], pseudo=pseudo, floor=floor), plans, masks[at])
        codes[:, at] = decide(squares, design)
    first = codes[:, prefixes(n_seeds)]
    stopped = np.where((first != OPEN).any(axis=1), (first != OPEN).argmax(axis=1) + 1, n_seeds)
    code = first[np.arange(n_runs), stopped - 1]
    unbiased = unbiased_means(differences, codes != OPEN, stopped, first_look=design.first_look)
    numbers = {name: np.full(n_runs, np.nan) for name in (*_INTERVALS, "mean")}
    for size in np.unique(stopped):
        here = np.flatnonzero(stopped == size)
        chosen = masks[prefixes(n_seeds)[size - 1]]
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
    bound = np.inf if design.span is None else design.span
    narrow = half_width(design.at_margin(squares), design.tail(squares, 0.10))

    def possible(low: Floats, high: Floats) -> tuple[Floats, Floats]:
        """The interval within the range of differences: few examples can give a half-width beyond it."""
        return np.maximum(low, -bound), np.minimum(high, bound)

    interval_95 = possible(*_interval_95(squares, codes, unbiased, design))
    return squares.std_error, *interval_95, *possible(squares.mean - narrow, squares.mean + narrow)


def _interval_95(
    squares: MeanSquares, codes: npt.NDArray[np.int64], unbiased: Floats, design: Design
) -> tuple[Floats, Floats]:
    """The 95 % interval: the bound itself while open, and at a stop a narrower one on its side of 0."""
    alpha = 0.05
    tail = design.tail(squares, alpha)
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


def _look(stop: Stops, design: Design) -> Look:
    """The only confirmation of `stop` as a record."""
    only = {name: array[0].item() for name, array in vars(stop).items()}
    n_seeds, code, low, high = (only[name] for name in ("n_seeds", "code", "low", "high"))
    label = _LABELS[code]
    open_reason = "planned" if n_seeds == design.planned_seeds else ""
    reason = {OPEN: open_reason, FUTILE: "futile"}.get(code, label)
    # The unbiased mean left the interval in no simulated confirmation; if it does, the end is taken.
    mean = min(max(only["unbiased"], low), high)
    interval = Interval(mean=mean, std_error=only["std_error"], low=low, high=high, level=0.95)
    return Look(
        n_seeds=n_seeds,
        planned_seeds=design.planned_seeds,
        label=label,
        reason=reason,
        mean_difference=only["mean"],
        interval=interval if n_seeds >= 2 else None,
        interval_90=(only["low_90"], only["high_90"]) if n_seeds >= 2 else None,
        margin=design.margin,
    )

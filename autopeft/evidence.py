"""What the confirmation scores prove: intervals, labels and the verdict in words.

Every table of scores here has shape (S, N): one row per seed, one column per
example of the split, both in a common order. **Larger is better in all inputs**;
a caller with losses, or another metric where less is better, negates the scores.

A new training run draws a new seed and a new user brings new examples, so a mean
has to generalise over both. With mean squares MS of the two-way table,

    Var(mean) = (MS_seed + MS_example - MS_residual) / (S N),

never taken below MS_seed / (S N) or MS_example / (S N), either of which a
negative estimate of the other component would otherwise undercut.

Source:
    Searle, Casella & McCulloch 1992, "Variance Components", chapter 4 (two-way
    random model, one observation per cell).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from autopeft.errors import SpecError
from autopeft.records import Verdict

Table = npt.NDArray[np.float64]

# Scores are measured in float32: a difference below its rounding means nothing.
_FLOAT32_ROUNDING = float(np.finfo(np.float32).eps)
_LENGTH = {"full": "at full length", "half": "at half length"}


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean with its confidence interval: `low < mean < high`, in units of the scores.

    `level` is the two-sided coverage aimed at, in (0, 1). `std_error` is > 0.
    """

    mean: float
    std_error: float
    low: float
    high: float
    level: float


@dataclass(frozen=True, kw_only=True)
class _MeanSquares:
    """Mean squares of an (S, N) table; `n_seeds` >= 1, `n_examples` >= 2."""

    mean: float
    seed: float
    example: float
    residual: float
    n_seeds: int
    n_examples: int

    @property
    def std_error(self) -> float:
        total = max(self.seed + self.example - self.residual, self.seed, self.example)
        return math.sqrt(total / (self.n_seeds * self.n_examples))


def paired_interval(
    best: npt.ArrayLike, baseline: npt.ArrayLike, *, level: float = 0.95, span: float | None = 1.0
) -> Interval:
    """Confidence interval of the mean of `best - baseline` over seeds and examples.

    Scores in a range of width `span` get Agresti and Min's half a pseudo-example in each
    of the cells (1, 1), (1, 0), (0, 1), (0, 0): differences of 0, +span, -span and 0.
    Without them equal scores on a small split would pass for certainty.

    Args:
        best: Scores of shape (S, N), S >= 2, N >= 2; larger is better.
        baseline: Scores of the same shape, seeds and examples.
        level: Two-sided coverage, in (0, 1).
        span: Width of the range of the scores, > 0 (1 for accuracy); None where they have no
            bounds (losses). Then the standard error is at least one float32 rounding of
            the largest score (1.2e-7 of it, or of 1).

    Returns:
        The interval, never of zero width, centred on the plain mean.

    Raises:
        SpecError: Fewer than 2 examples, or scores further apart than `span`.

    Source:
        Width: `_half_width`. Agresti & Min 2005, Statistics in Medicine 24:729; we keep
        the plain mean as centre and N as divisor, which is slightly wider.

    Example:
        >>> same = [[1, 0, 1, 1], [1, 0, 1, 1]]
        >>> interval = paired_interval(same, same)
        >>> interval.mean, interval.low < 0 < interval.high
        (0.0, True)
    """
    assert 0 < level < 1, level
    first, second = _table(best), _table(baseline)
    assert first.shape == second.shape, f"shapes {first.shape} and {second.shape} differ"
    assert first.shape[0] >= 2, "a paired interval needs 2 seeds or more"
    difference = first - second
    _check_span(float(np.abs(difference).max()), span)
    pseudo = None if span is None else (0.0, span, -span, 0.0)
    scale = max(float(np.abs(first).max()), float(np.abs(second).max()))
    squares = _mean_squares(difference, pseudo=pseudo, scale=scale)
    half = _half_width(squares, level)
    bound = math.inf if span is None else span  # two seeds and few examples would reach beyond what there is
    low, high = max(-bound, squares.mean - half), min(bound, squares.mean + half)
    return Interval(mean=squares.mean, std_error=squares.std_error, low=low, high=high, level=level)


def mean_and_std_error(scores: npt.ArrayLike, *, span: float | None = 1.0) -> tuple[float, float]:
    """Mean score of one plan and its standard error over seeds and examples.

    The variance model is that of `paired_interval`; one seed leaves the examples alone. Of
    bounded scores, in [0, span], the half pseudo-examples are two of 0 and two of `span`.

    Args:
        scores: Shape (S, N), S >= 1, N >= 2; larger is better.
        span: Largest score there can be, > 0; None where there are no bounds.

    Returns:
        The plain mean and a standard error > 0, both in units of the scores.

    Raises:
        SpecError: Fewer than 2 examples, or scores further apart than `span`.

    Example:
        >>> mean, std_error = mean_and_std_error([[1, 1, 1, 0]])
        >>> mean, round(std_error, 3)
        (0.75, 0.339)
    """
    table = _table(scores)
    _check_span(float(np.ptp(table)), span)
    pseudo = None if span is None else (0.0, 0.0, span, span)
    squares = _mean_squares(table, pseudo=pseudo, scale=float(np.abs(table).max()))
    return squares.mean, squares.std_error


def label(best: npt.ArrayLike, baseline: npt.ArrayLike, *, margin: float, span: float | None = 1.0) -> str:
    """One word for best against baseline: better, worse, equivalent or inconclusive.

    `better` (95 % interval above 0) and `worse` (below 0) win over `equivalent` (90 %
    interval within ± margin, two one-sided tests at 5 %): a proven difference is told
    even where it is small. So swapping the plans swaps better and worse.

    Args:
        best: Scores, with `baseline` and `span` as in `paired_interval`.
        baseline: Scores.
        margin: Largest difference that does not matter, > 0, in units of the scores.
        span: Width of the range.

    Raises:
        SpecError: As `paired_interval`, or a margin that is not above 0.

    Source:
        Schuirmann 1987, J. Pharmacokinetics and Biopharmaceutics 15:657 (two one-sided tests).

    Example:
        >>> label([[1] * 90, [1] * 90], [[0] * 90, [0] * 90], margin=0.01)
        'better'
    """
    _check_margin(margin)
    wide = paired_interval(best, baseline, level=0.95, span=span)
    narrow = paired_interval(best, baseline, level=0.90, span=span)
    if wide.low > 0:
        return "better"
    if wide.high < 0:
        return "worse"
    if -margin < narrow.low and narrow.high < margin:
        return "equivalent"
    return "inconclusive"


def within_margin(
    small: npt.ArrayLike, best: npt.ArrayLike, *, margin: float, span: float | None = 1.0
) -> bool:
    """Whether `small` is proven to lose less than `margin` against `best`.

    Proven means that the one-sided 95 % lower bound of `small - best`, the low end of
    the 90 % interval, is above -margin. Arguments and errors are those of `label`.

    Example:
        >>> within_margin([[1] * 400, [1] * 400], [[1] * 400, [1] * 400], margin=0.01)
        True
    """
    _check_margin(margin)
    return paired_interval(small, best, level=0.90, span=span).low > -margin


def verdict(
    best: npt.ArrayLike,
    baseline: npt.ArrayLike,
    *,
    margin: float,
    metric: str,
    fidelity: str,
    smallest_equivalent: str,
    span: float | None = 1.0,
) -> Verdict:
    """The verdict on a confirmed best plan against the baseline, with its sentence.

    Args:
        best: Scores, with `baseline`, `margin` and `span` as in `label`.
        baseline: Scores.
        margin: Largest difference that does not matter.
        metric: What the scores are, for the sentence ("accuracy", "loss").
        fidelity: Length of the confirming runs, `full` or `half`.
        smallest_equivalent: How the smallest plan stands; passed on.
        span: Width of the range; with 1 the sentence speaks of points (0.01).

    Raises:
        SpecError: As `label`.

    Example:
        >>> told = verdict(
        ...     [[1] * 90, [1] * 90], [[0, 1] * 45, [0, 1] * 45],
        ...     margin=0.01, metric="accuracy", fidelity="full", smallest_equivalent="proven",
        ... )
        >>> told.sentence[:69]
        'The best plan is better than the baseline by 50.0 points of accuracy '
    """
    interval = paired_interval(best, baseline, level=0.95, span=span)
    word = label(best, baseline, margin=margin, span=span)
    shown = paired_interval(best, baseline, level=0.90, span=span) if word == "equivalent" else interval
    where = f"{_LENGTH[fidelity]} on {_table(best).shape[0]} seeds"
    return Verdict(
        label=word,
        mean_difference=interval.mean,
        interval_95=(interval.low, interval.high),
        margin=margin,
        fidelity=fidelity,
        smallest_equivalent=smallest_equivalent,
        sentence=_sentence(word, shown, margin=margin, metric=metric, where=where, in_points=span == 1),
    )


def verdict_on_same_plan(*, margin: float, fidelity: str, smallest_equivalent: str) -> Verdict:
    """The verdict where the best plan is the baseline itself: equal by identity, no interval."""
    return Verdict(
        label="equivalent",
        mean_difference=0.0,
        interval_95=None,
        margin=margin,
        fidelity=fidelity,
        smallest_equivalent=smallest_equivalent,
        sentence="The best plan is the baseline itself: the search found no plan that promises more.",
    )


def verdict_without_confirmation(*, margin: float, smallest_equivalent: str) -> Verdict:
    """The verdict where nothing was confirmed: there is none, and the sentence says so."""
    return Verdict(
        label="none",
        mean_difference=None,
        interval_95=None,
        margin=margin,
        fidelity="none",
        smallest_equivalent=smallest_equivalent,
        sentence="There is no verdict on the best plan: it was not confirmed on fresh seeds "
        "(--confirm full or --confirm half does that).",
    )


def rank_correlation(a: Sequence[float | None], b: Sequence[float | None]) -> float | None:
    """Spearman's rho of two lists of equal length, in [-1, 1]; ties share their mean rank.

    Pairs where either side is None or not finite (a diverged run) are left out.
    None where fewer than 3 pairs are left or a side is constant: no order to compare.

    Example:
        >>> rank_correlation([0.1, 0.2, 0.3, float("nan")], [1.0, 2.0, 3.0, 0.0])
        1.0
    """
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    assert first.shape == second.shape and first.ndim == 1, f"{first.shape} against {second.shape}"
    finite = np.isfinite(first) & np.isfinite(second)
    first, second = first[finite], second[finite]
    if first.size < 3 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return None
    # Rounding can leave the coefficient a hair outside its range.
    return float(np.clip(stats.spearmanr(first, second).statistic, -1.0, 1.0))


def _table(scores: npt.ArrayLike) -> Table:
    table = np.asarray(scores, dtype=np.float64)
    assert table.ndim == 2 and table.shape[0] >= 1, f"scores of shape {table.shape}, not (S, N)"
    assert np.isfinite(table).all(), "scores must be finite; a failed run has none"
    if table.shape[1] < 2:
        raise SpecError(
            f"The split for the verdict has {table.shape[1]} examples and an interval needs at least 2; "
            "give a larger dataset or use --confirm none."
        )
    return table


def _check_span(widest: float, span: float | None) -> None:
    assert span is None or span > 0, span
    if span is not None and widest > span * (1 + _FLOAT32_ROUNDING):
        raise SpecError(
            f"The task says that its scores lie in a range of width {span:g}, but two are {widest:g} apart; "
            "correct the task's range or declare it unbounded."
        )


def _check_margin(margin: float) -> None:
    if not margin > 0:
        raise SpecError(f"The margin is {margin:g} and must be above 0; raise --margin.")


def _mean_squares(table: Table, *, pseudo: tuple[float, ...] | None, scale: float) -> _MeanSquares:
    """Mean squares of an (S, N) table, each of `pseudo` added as half an example alike on all seeds."""
    n_seeds, n_examples = table.shape
    mean = float(table.mean())
    rows = table.mean(axis=1, keepdims=True) - mean
    columns = table.mean(axis=0, keepdims=True) - mean
    residual = table - mean - rows - columns
    spread = float((columns**2).sum())
    if pseudo is not None:
        spread += 0.5 * sum((score - mean) ** 2 for score in pseudo)
    floor = n_seeds * n_examples * (_FLOAT32_ROUNDING * max(1.0, scale)) ** 2
    return _MeanSquares(
        mean=mean,
        seed=n_examples * float((rows**2).sum()) / max(n_seeds - 1, 1),  # 0 for one seed
        example=max(n_seeds * spread / (n_examples - 1), floor),
        residual=float((residual**2).sum()) / max((n_seeds - 1) * (n_examples - 1), 1),
        n_seeds=n_seeds,
        n_examples=n_examples,
    )


def _half_width(squares: _MeanSquares, level: float) -> float:
    """Half the interval, each component with the t quantile of its own degrees of freedom.

        half**2 = (t[S-1]**2 MS_seed + t[N-1]**2 max(MS_example - MS_residual, 0)) / (S N),

    and at least t[N-1]**2 MS_example / (S N). So the examples' part is not burdened with
    a t on the seeds' few degrees of freedom. Satterthwaite's pooled ones were tried and
    rejected: an MS_seed that is small by chance (often, on S - 1 = 2) also asks for a
    small t, and coverage at 95 % fell to 92.2 % for S = 3 and 87.4 % for S = 2. This
    one had 94.9 to 99.3 % (normal tables; S = 2, 3, 5, 10; N = 20, 300; N var_seed /
    var_residual 0 to 100, S var_example / var_residual 0 to 30).

    Source:
        Banerjee 1960, Sankhya 22:357: such a sum covers at least `level` for independent
        mean squares. Ours subtracts MS_residual, which the proof does not cover, hence the
        simulation.
    """
    tail = (1 + level) / 2
    by_seed = float(stats.t.ppf(tail, squares.n_seeds - 1)) ** 2
    by_example = float(stats.t.ppf(tail, squares.n_examples - 1)) ** 2
    excess = max(squares.example - squares.residual, 0.0)
    total = max(by_seed * squares.seed + by_example * excess, by_example * squares.example)
    return math.sqrt(total / (squares.n_seeds * squares.n_examples))


def _sentence(
    word: str, interval: Interval, *, margin: float, metric: str, where: str, in_points: bool
) -> str:
    """One sentence for people; signed numbers favour the best plan where they are positive."""
    factor = 100.0 if in_points else 1.0
    unit = f"points of {metric}" if in_points else f"in {metric}"
    mean, low, high = (factor * value for value in (interval.mean, interval.low, interval.high))
    edge = factor * margin
    places = _decimals((low, high, edge), least=1 if in_points else 3)
    level = f"{interval.level:.0%}".replace("%", " %")
    if word in ("better", "worse"):
        # A worse plan is worse by a positive number.
        mean, low, high = (mean, low, high) if word == "better" else (-mean, -high, -low)
        numbers = f"{mean:.{places}f} {unit} ({level} interval {low:.{places}f} to {high:.{places}f})"
        return f"The best plan is {word} than the baseline by {numbers}, confirmed {where}."
    sign = "" if in_points else ", plus in favour of the best plan"
    # Adding 0.0 turns -0.0 into 0.0.
    mean, low, high = (round(value, places) + 0.0 for value in (mean, low, high))
    bounds = f"{level} interval {low:+.{places}f} to {high:+.{places}f}{sign}"
    numbers = f"{mean:+.{places}f} {unit} ({bounds}) {where}"
    within = f"the margin of {edge:.{places}f}{' points' if in_points else ''}"
    if word == "equivalent":
        return f"The best plan is equivalent to the baseline: {numbers}, which is within {within}."
    return (
        f"The best plan is not told apart from the baseline: {numbers}; neither a difference nor "
        f"equality within {within} is shown, and more seeds or confirm examples would narrow the interval."
    )


def _decimals(values: tuple[float, ...], *, least: int) -> int:
    """Enough decimals, `least` to 6, that no value which is not 0 reads as 0."""
    for places in range(least, 6):
        if all(value == 0 or round(value, places) != 0 for value in values):
            return places
    return 6

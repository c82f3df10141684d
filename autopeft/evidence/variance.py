"""The variance of a mean score over seeds and examples, and the width of its confidence interval.

A table of scores has shape (S, N): S seeds, N examples. A new training run draws a new seed and a new user
brings new examples, so its mean has to hold for other seeds and other examples too. The model is a two-way
random-effects analysis of variance with one score per cell; its mean squares MS give

    Var(mean) = (MS_seed + MS_example - MS_residual) / (S N),

never taken below MS_seed / (S N) or MS_example / (S N): a negative estimate of one component would otherwise
cancel part of the other. Where examples come in groups, the columns of the table are groups (see `examples`).

Arrays may have leading axes, so that a simulation of thousands of confirmations runs the code that judges a
single one.

Source:
    Searle, Casella & McCulloch 1992, "Variance Components", chapter 4 (two-way
    random model, one observation per cell).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import special

from autopeft.evidence.examples import units

Floats = npt.NDArray[np.float64]

# Scores are measured in float32: a difference below its rounding means nothing.
FLOAT32_ROUNDING = float(np.finfo(np.float32).eps)


@dataclass(frozen=True, kw_only=True)
class MeanSquares:
    """Means and mean squares of a batch of tables (S, N); each array has the shape of the batch.

    `mean` is in units of the scores, `seed`, `example` and `residual` in their square, >= 0. `freedom` is
    the degrees of freedom of `seed`: S - 1, and more where plans are pooled (see `pooling`).
    `example_freedom` are those of `example`, for which `None` is N - 1. Where the N examples are groups of
    rows, `row_weight` is N over the number of rows, in (0, 1), and `design_effect` the variance of the mean
    in multiples of that over independent rows, >= 1; else both are 1.
    """

    mean: Floats
    seed: Floats
    example: Floats
    residual: Floats
    n_seeds: int
    n_examples: int
    freedom: int
    example_freedom: float | None = None
    row_weight: float = 1.0
    design_effect: Floats | float = 1.0

    @property
    def examples_freedom(self) -> float:
        """Degrees of freedom of the mean square of the examples, >= 1."""
        return self.n_examples - 1 if self.example_freedom is None else self.example_freedom

    @property
    def std_error(self) -> Floats:
        """Standard error of the mean, > 0, in units of the scores."""
        total = np.maximum.reduce([self.seed + self.example - self.residual, self.seed, self.example])
        return np.asarray(np.sqrt(total / (self.n_seeds * self.n_examples)))

    @property
    def excess(self) -> Floats:
        """S N times the part of the variance of the mean that all seeds share by their examples, >= 0."""
        return np.maximum(self.example - self.residual, 0.0)

    @property
    def example_share(self) -> Floats:
        """Share of the variance of the mean that more seeds would not lower, in [0, 1]."""
        total = self.seed + self.excess
        return np.divide(self.excess, total, out=np.zeros_like(total), where=total > 0)


@dataclass(frozen=True, kw_only=True)
class Moments:
    """First and second moments of tables (..., S, N): enough for the mean squares of any subset of the seeds.

    `centre` (...) is the grand mean, `rows` (..., S) each seed's mean minus `centre`, `products`
    (..., S, S) the mean over examples of the product of two seeds' centred scores. The last three are those
    of `MeanSquares`; the design effect has shape (...), or is None where the examples are rows.
    """

    centre: Floats
    rows: Floats
    products: Floats
    n_examples: int
    example_freedom: float | None = None
    row_weight: float = 1.0
    design_effect: Floats | None = None

    def take(self, indices: npt.NDArray[np.int64]) -> Moments:
        """The moments of the tables at these indices of the batch."""
        arrays = {name: getattr(self, name)[indices] for name in ("centre", "rows", "products")}
        effect = None if self.design_effect is None else self.design_effect[indices]
        return replace(self, **arrays, design_effect=effect)

    def squares(self, chosen: npt.ArrayLike, *, pseudo: tuple[float, ...], floor: float) -> MeanSquares:
        """Mean squares over subsets of the seeds.

        `chosen` is 1 for each seed in the subset, else 0: (S,) for one subset, whose arrays have the batch's
        shape (...), or (M, S) for M subsets of equal size, whose arrays are (..., M). `pseudo` are extra
        scores, equal on all seeds, that count as half an example each (see `paired_interval`), or half a row
        where examples are groups. `floor`, >= 0, is a lower bound of the variance of the mean over examples.
        """
        picks = np.atleast_2d(np.asarray(chosen, dtype=np.float64))
        n_seeds, n = int(picks[0].sum()), self.n_examples
        assert (picks.sum(axis=1) == n_seeds).all(), "subsets of one size"
        off_centre = self.rows @ picks.T / n_seeds
        mean = self.centre[..., None] + off_centre
        by_seed = (self.rows**2) @ picks.T - n_seeds * off_centre**2
        by_example = ((picks @ self.products) * picks).sum(-1) / n_seeds**2 - off_centre**2
        total = np.diagonal(self.products, axis1=-2, axis2=-1) @ picks.T - n_seeds * off_centre**2
        rest = np.maximum(total - by_seed - n_seeds * by_example, 0.0)
        extra = 0.5 * sum((score - mean) ** 2 for score in pseudo)
        spread = n * np.maximum(by_example, 0.0) + self.row_weight**2 * extra
        arrays: dict[str, Any] = {  # mypy would pass one of them for another field, too
            "mean": mean,
            "seed": n * np.maximum(by_seed, 0.0) / max(n_seeds - 1, 1),  # 0 for one seed
            "example": np.maximum(n_seeds * spread / (n - 1), n_seeds * n * floor),
            "residual": n * rest / max((n_seeds - 1) * (n - 1), 1),
        }
        if self.design_effect is not None:
            arrays["design_effect"] = np.broadcast_to(self.design_effect[..., None], mean.shape)
        if np.ndim(chosen) == 1:
            arrays = {name: array[..., 0] for name, array in arrays.items()}
        return MeanSquares(
            **arrays,
            n_seeds=n_seeds,
            n_examples=n,
            freedom=n_seeds - 1,
            example_freedom=self.example_freedom,
            row_weight=self.row_weight,
        )


def moments(tables: Floats, groups: Sequence[int] = ()) -> Moments:
    """The moments of tables of shape (..., S, N), whose examples lie in these groups (see `Examples`)."""
    tables, freedom, row_weight, design_effect = units(tables, groups)
    centre, n_examples = tables.mean(axis=(-2, -1)), tables.shape[-1]
    centred = tables - centre[..., None, None]
    return Moments(
        centre=centre,
        rows=centred.mean(axis=-1),
        products=centred @ np.swapaxes(centred, -1, -2) / n_examples,
        n_examples=n_examples,
        example_freedom=freedom,
        row_weight=row_weight,
        design_effect=design_effect,
    )


def pseudo_differences(step: float | None) -> tuple[float, ...]:
    """Pseudo-examples of a difference of scores that an example moves by `step` (see `paired_interval`)."""
    return () if step is None else (0.0, step, -step, 0.0)


def rounding_floor(scale: float) -> float:
    """Variance of one float32 rounding of scores as large as `scale` (at least 1)."""
    return (FLOAT32_ROUNDING * max(1.0, scale)) ** 2


def apart_by(margin: float, squares: MeanSquares, *, step: float | None) -> MeanSquares:
    """The mean squares, with the examples' no smaller than of plans whose means are `margin` apart.

    A test of equivalence asks whether the truth may be a difference of the margin. Of scores that differ by
    `step` or not at all, that is a difference on margin / step of the examples or more, so that the variance
    of one example is `margin * (step - margin)` at least. Few examples may show no difference at all: a point
    of accuracy shows on none of 170 in 18 % of draws. Without a step nothing is changed. Where examples are
    groups of rows, the least variance is that of independent rows times the design effect: rows at which one
    plan alone is right are supposed to be as alike within groups as the scores are.

    Source:
        The variance under the hypothesis, as in score tests; Tango 1998, Statistics in Medicine 17:891.
    """
    if step is None:
        return squares
    least = squares.n_seeds * margin * (step - margin) * squares.row_weight * squares.design_effect
    return replace(squares, example=np.maximum(squares.example, least))


def half_width(squares: MeanSquares, tail: float | Floats) -> Floats:
    """Half the width of the confidence interval of the mean, in units of the scores.

    It is a Student t interval whose quantile lies between that of the seeds, F degrees of freedom (S - 1
    where nothing is pooled), and that of the examples, N - 1 (see `examples` for groups). With V = (MS_seed +
    max(MS_example - MS_residual, 0)) / (S N) and R the share of the examples in it,

        half = (t[N-1] + (t[F] - t[N-1]) (1 - R)**g) sqrt(V),    g = F / 2, at most 1.5,

    and at least t[N-1] sqrt(MS_example / (S N)). Where only seeds or only examples vary it is the exact t
    interval. The exponent g was set by numerical integration over R (this project, reports/LOG.md
    2026-11-25): the 95 % interval covers the truth in 94.8 to 95.7 % from four seeds on, in 95.0 to 97.1 %
    for three, and in 95.0 to 99.5 % for two, where no narrower one is safe. Rejected: Banerjee's sum of
    squares (95.0 to 97.0 % for four seeds), exponents of 2 and more (94.2 % for four seeds) and
    Satterthwaite's pooled degrees of freedom (92.2 % for three seeds, 87.4 % for two).

    `squares` are of two seeds at least. `tail` is the probability, both sides together, that the interval
    misses the true mean: 0.05 for a 95 % interval; one number, or one per table.
    """
    freedom, n_cells = squares.freedom, squares.n_seeds * squares.n_examples
    # The same numbers as `stats.t.isf` gives, twenty times as fast; simulations call this for each table.
    by_seed = -special.stdtrit(freedom, np.asarray(tail) / 2)
    by_example = -special.stdtrit(squares.examples_freedom, np.asarray(tail) / 2)
    seed_share = 1 - squares.example_share
    factor = by_example + (by_seed - by_example) * seed_share ** min(freedom / 2, 1.5)
    half = np.maximum(factor * np.sqrt(squares.seed + squares.excess), by_example * np.sqrt(squares.example))
    return np.asarray(half / np.sqrt(n_cells))

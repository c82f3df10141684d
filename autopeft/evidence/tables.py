"""Tables of scores from what a task gives: metrics that are no means, and seeds without scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from scipy import stats

from autopeft.errors import SpecError
from autopeft.evidence.components import Table


def pseudo_values(metric: Callable[[npt.NDArray[np.int64]], float], n_examples: int) -> Table:
    """One number per example whose mean stands for a metric that is no mean over examples.

    The leave-one-out jackknife, N m - (N - 1) m_without_i. For a mean over examples it
    gives back their scores; for a smooth metric (Pearson, F1 over pooled counts) the
    mean is the metric less its bias of order 1 / N, and the spread gives its variance. It does not hold for
    metrics that jump, such as a median, or the best threshold. Such scores have no
    bounds: use `span=None`, even if the metric itself lies in [0, 1].

    Args:
        metric: The metric of the examples with these indices; larger is better. It is called N + 1
            times; where a part is not defined (a class left without an example) it has to
            give a finite number.
        n_examples: N >= 3. An example is what is drawn at once: a sentence, not its tokens.

    Returns:
        Shape (N,): a row of a table.

    Raises:
        SpecError: Fewer than 3 examples, or a value that is not finite.

    Source:
        Tukey 1958; Miller 1974, Biometrika 61:1, section 2.

    Example:
        >>> scores = np.array([1.0, 0.0, 1.0, 1.0])
        >>> pseudo_values(lambda at: scores[at].mean(), 4).tolist()
        [1.0, 0.0, 1.0, 1.0]
    """
    if n_examples < 3:
        raise SpecError(
            f"The split has {n_examples} examples and this metric needs at least 3; give a larger dataset."
        )
    every = np.arange(n_examples)
    whole = metric(every)
    without = np.array([metric(np.delete(every, left_out)) for left_out in every], dtype=np.float64)
    values = n_examples * whole - (n_examples - 1) * without
    if not np.isfinite(values).all():
        raise SpecError(
            "The metric is not defined without some example (a constant column, or a class of one); "
            "give a larger confirm split or another metric."
        )
    return np.asarray(values)


def with_diverged(rows: Sequence[Sequence[float] | None], *, lowest: float | None = 0.0) -> list[list[float]]:
    """Scores of all seeds; a diverged one (None, or no scores) gets the lowest score on every example.

    Args:
        rows: Scores by seed, larger is better; at least one seed has some.
        lowest: Lowest score there can be (0 for accuracy); None where there is none (negated losses):
            then each example's lowest over the finished seeds, which flatters a diverged plan least
            of what is known, and more than the truth.

    Example:
        >>> with_diverged([[1, 0], None])
        [[1, 0], [0.0, 0.0]]
    """
    finished = [row for row in rows if row is not None and len(row)]
    assert finished, "no seed has scores"
    worst = [min(column) if lowest is None else lowest for column in zip(*finished, strict=True)]
    return [list(row) if row is not None and len(row) else list(worst) for row in rows]


def divergence_chance(n_diverged: int, n_seeds: int) -> tuple[float, float]:
    """95 % bounds of the chance that a run diverges, from how many of the seeds did.

    No interval of the mean can know of a failure that none of the seeds showed: it speaks of
    seeds like those seen. After none in 3 runs the chance may still be 71 %, after none in 10, 31 %.

    Source:
        Clopper & Pearson 1934, Biometrika 26:404.

    Example:
        >>> low, high = divergence_chance(0, 10)
        >>> low, round(high, 3)
        (0.0, 0.308)
    """
    assert 0 <= n_diverged <= n_seeds and n_seeds >= 1, (n_diverged, n_seeds)
    none, all_of_them = n_diverged == 0, n_diverged == n_seeds
    low = 0.0 if none else float(stats.beta.ppf(0.025, n_diverged, n_seeds - n_diverged + 1))
    high = 1.0 if all_of_them else float(stats.beta.ppf(0.975, n_diverged + 1, n_seeds - n_diverged))
    return low, high

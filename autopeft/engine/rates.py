"""Learning rates to try: spread over a range, or next to the best one so far."""

from __future__ import annotations

import math
from collections.abc import Mapping

# Positions in a method's range, in the logarithm, with the least mean loss above that of the best rate over
# recorded curves of 19 methods and models; two at a third and two thirds do worse than one in the middle
# (reports/LOG.md, 2026-11-26).
_CENTRAL = {1: (0.55,), 2: (0.45, 0.65), 3: (0.35, 0.5, 0.65)}
_NEAR = math.log(1.1)  # two rates closer than this are not told apart by a run; chosen by hand


def spread(low: float, high: float, n: int) -> tuple[float, ...]:
    """N learning rates inside a range, evenly spaced in the logarithm, ends left out."""
    step = math.log(high / low) / (n + 1)
    return tuple(low * math.exp(step * (index + 1)) for index in range(n))


def central(low: float, high: float, n: int) -> tuple[float, ...]:
    """One to three learning rates of a method in the part of its range where the best one is most likely.

    Example:
        >>> [round(rate, 4) for rate in central(1e-3, 1e-1, 2)]
        [0.0079, 0.02]
    """
    return tuple(low * (high / low) ** position for position in _CENTRAL[n])


def next_rate(losses: Mapping[float, float], bounds: tuple[float, float]) -> float | None:
    """The learning rate to try next: between the best rate so far and its better neighbour.

    Where the best rate is the lowest or the highest so far, the end of the range counts as its neighbour
    and comes first. None where each middle would lie within a tenth of the best rate. `losses` maps learning
    rates to losses, inf where the run diverged; `bounds` is the range of the method, ascending.

    Example:
        >>> next_rate({1e-3: 0.5, 4e-3: 0.3, 1.6e-2: 0.4}, (5e-4, 3e-2))
        0.008
        >>> round(next_rate({1e-3: 0.5, 4e-3: 0.3}, (5e-4, 1.6e-2)), 6)
        0.008
    """
    rates = sorted(losses)
    best = min(rates, key=lambda rate: (losses[rate], rate))
    below, above = [rate for rate in rates if rate < best], [rate for rate in rates if rate > best]
    if below and above:
        neighbours = sorted((below[-1], above[0]), key=lambda rate: losses[rate])  # stable: lower on ties
    elif above:
        neighbours = [bounds[0], above[0]]
    elif below:
        neighbours = [bounds[1], below[-1]]
    else:
        neighbours = [*bounds]
    for neighbour in neighbours:
        if abs(math.log(neighbour / best)) > 2 * _NEAR:
            return math.sqrt(neighbour * best)
    return None

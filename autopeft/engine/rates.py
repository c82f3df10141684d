"""Learning rates to try, spread over a range."""

from __future__ import annotations

import math

# Positions in a method's range, in the logarithm, with the least mean loss above that of the best rate over
# recorded curves of 19 methods and models; two at a third and two thirds do worse than one in the middle
# (reports/LOG.md, 2026-11-26).
_CENTRAL = {1: (0.55,), 2: (0.45, 0.65), 3: (0.35, 0.5, 0.65)}


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

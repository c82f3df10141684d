"""The record of a metric of labels, and the types of what it is computed from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Scored = tuple[float, tuple[float, ...]]  # a metric, and one score per example with the metric as their mean


@dataclass(frozen=True, kw_only=True)
class LabelMetric:
    """A metric as `extension.Metric` has it; `score` is called with truth and guesses."""

    name: str
    kinds: tuple[str, ...]
    score: Callable[[Floats, Floats], Scored]
    default_for: tuple[str, ...] = ()
    greater_is_better: bool = True
    is_share: bool = False
    score_span: float | None = None

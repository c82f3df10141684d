"""How training computes: in which pieces a step goes through the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(kw_only=True)
class Compute:
    """How a bench computes; none of it changes what is computed but for rounding and the draws of dropout.

    A step goes through the model in micro-batches of at most `micro_batch_tokens`, padding included; None
    takes it whole.
    """

    micro_batch_tokens: int | None = None


def micro_batches(
    rows: Sequence[int], lengths: NDArray[np.int64], *, max_tokens: int | None
) -> list[Sequence[int]]:
    """The rows of a step, cut in their order into parts of at most `max_tokens` each, padding included.

    A part has at least one row, so that a row longer than `max_tokens` is a part of its own.

    Example:
        >>> micro_batches([0, 1, 2, 3], np.array([5, 6, 9, 30]), max_tokens=12)
        [[0, 1], [2], [3]]
    """
    if max_tokens is None or padded_tokens(rows, lengths) <= max_tokens:
        return [rows]
    parts: list[list[int]] = []
    longest = 0  # row of the last part
    for row, length in zip(rows, lengths[list(rows)].tolist(), strict=True):
        longest = max(longest, length)
        if parts and (len(parts[-1]) + 1) * longest <= max_tokens:
            parts[-1].append(row)
        else:
            parts.append([row])
            longest = length
    return list(parts)


def padded_tokens(rows: Sequence[int], lengths: NDArray[np.int64]) -> int:
    """Tokens of a batch of rows that are padded to its longest one; 0 without rows."""
    return len(rows) * int(lengths[list(rows)].max(initial=0))

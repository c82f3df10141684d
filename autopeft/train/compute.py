"""How training computes: in which pieces a step goes through the model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from autopeft.errors import first_line_of
from autopeft.model import is_out_of_memory, release_memory

Result = TypeVar("Result")


@dataclass(kw_only=True)
class Compute:
    """How a bench computes; none of it changes what is computed but for rounding and the draws of dropout.

    A step goes through the model in micro-batches of at most `micro_batch_tokens`, padding included; None
    takes it whole. With `checkpointing`, layers keep only their inputs for the backward pass, where the plan
    and the model allow it. An evaluation batch has at most `max_eval_tokens`; None: as many as are best.
    What is kept for later plans respects `memory_bytes`, the most that the device may use.

    Where memory runs out the two limits are lowered and layers checkpointed, for all later runs too.
    """

    micro_batch_tokens: int | None = None
    checkpointing: bool = False
    max_eval_tokens: int | None = None
    memory_bytes: int | None = None


class NothingToCutError(MemoryError):
    """Memory ran out at a single row, so that a smaller batch is no help."""


def in_smaller_batches(
    attempt: Callable[[int], Result], max_tokens: int, *, smallest: int, device: torch.device
) -> Result:
    """What an attempt returns with batches of so many tokens, or of half as many, while memory runs out.

    Raises NothingToCutError where memory runs out at `smallest`, the tokens of the largest row.
    """
    while True:
        try:
            return attempt(max_tokens)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if max_tokens <= smallest:
                raise NothingToCutError(f"{first_line_of(error)} (one row)") from error
        release_memory(device)
        max_tokens = max(max_tokens // 2, smallest)


def micro_batches(
    rows: Sequence[int], sizes: NDArray[np.int64], *, max_tokens: int | None
) -> list[Sequence[int]]:
    """The rows of a step, cut in their order into parts of at most `max_tokens` each, padding included.

    A part has at least one row, so that a row longer than `max_tokens` is a part of its own.

    Example:
        >>> micro_batches([0, 1, 2, 3], np.array([5, 6, 9, 30]), max_tokens=12)
        [[0, 1], [2], [3]]
    """
    if max_tokens is None or padded_tokens(rows, sizes) <= max_tokens:
        return [rows]
    parts: list[list[int]] = []
    longest = 0  # row of the last part
    for row, length in zip(rows, sizes[list(rows)].tolist(), strict=True):
        longest = max(longest, length)
        if parts and (len(parts[-1]) + 1) * longest <= max_tokens:
            parts[-1].append(row)
        else:
            parts.append([row])
            longest = length
    return list(parts)


def padded_tokens(rows: Sequence[int], sizes: NDArray[np.int64]) -> int:
    """Tokens of a batch of rows that are padded to its longest one; 0 without rows."""
    return len(rows) * int(sizes[list(rows)].max(initial=0))

"""Tokens of rows that are not cut yet, from which the length of examples is derived."""

from __future__ import annotations

from collections.abc import Sequence

from autopeft.data import Split
from autopeft.extension import Task
from autopeft.model import BaseModel
from autopeft.train.rows import length_of

_COUNTED_ROWS = 2000  # of a long text, whose tokens are counted; chosen by hand
_COUNTED_CHARACTERS = 4_000_000  # of these rows, at most; chosen by hand


def uncut_lengths(split: Split, rows: Sequence[int], base: BaseModel, task: Task, *, most: int) -> list[int]:
    """Tokens of some rows of a split with nothing cut off; `most` + 1 stands for any more.

    Where a model reads a prompt and writes a completion elsewhere, the longer of the two counts.
    """
    inputs, labels = [split.inputs[i] for i in rows], [split.labels[i] for i in rows]
    encoded = task.encode(inputs, labels, base.tokenizer, most + 1)
    lengths = [length_of(example) for example in encoded.examples]
    if task.peft_task_type != "SEQ_2_SEQ_LM":
        return lengths
    return [max(length, len(label)) for length, label in zip(lengths, encoded.labels, strict=True)]


def count_tokens(split: Split, base: BaseModel, task: Task, *, block_length: int) -> int:
    """Tokens of a split that becomes blocks; of a long one by its beginning and its number of characters."""
    n_characters = sum(len(str(cell)) for row in split.inputs for cell in row)
    first, left = [], _COUNTED_CHARACTERS
    for row in split.inputs[:_COUNTED_ROWS]:
        if left <= 0:
            break
        first.append(tuple(str(cell)[:left] for cell in row))
        left -= sum(map(len, first[-1]))
    encoded = task.encode(first, split.labels[: len(first)], base.tokenizer, block_length)
    counted = sum(map(length_of, encoded.examples))
    return counted * n_characters // max(1, sum(len(cell) for row in first for cell in row))

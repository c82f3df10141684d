"""Tokens of rows that are not cut yet, from which the length of examples is derived."""

from __future__ import annotations

from collections.abc import Sequence

from autopeft.data import Split
from autopeft.extension import Task
from autopeft.model import BaseModel
from autopeft.train.encoding import NO_CUT, EncodedSplit

_COUNTED_ROWS = 2000  # of a long text, whose tokens are counted; chosen by hand


def uncut_lengths(split: Split, rows: Sequence[int], base: BaseModel, task: Task) -> list[int]:
    """Tokens of some rows of a split with nothing cut off.

    Where a model reads a prompt and writes a completion elsewhere, the longer of the two counts.
    """
    inputs, labels = [split.inputs[i] for i in rows], [split.labels[i] for i in rows]
    encoded = task.encode(inputs, labels, base.tokenizer, NO_CUT)
    lengths = [int(n) for n in EncodedSplit(examples=encoded.examples, labels=encoded.labels).lengths]
    if task.peft_task_type != "SEQ_2_SEQ_LM":
        return lengths
    return [max(length, len(label)) for length, label in zip(lengths, encoded.labels, strict=True)]


def count_tokens(split: Split, base: BaseModel, task: Task, *, block_length: int) -> int:
    """Tokens of a split that becomes blocks; of a long one by its first rows and its number of characters."""
    first = split.inputs[:_COUNTED_ROWS]
    encoded = task.encode(first, split.labels[: len(first)], base.tokenizer, block_length)
    counted = sum(int(n) for n in EncodedSplit(examples=encoded.examples, labels=encoded.labels).lengths)
    n_characters = [sum(len(str(cell)) for cell in row) for row in split.inputs]
    return counted * sum(n_characters) // max(1, sum(n_characters[: len(first)]))

"""Turns texts into rows of token features, as arrays: Python lists would take ten times the memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autopeft.plugins import Example

Row = NDArray[np.int32]
Pair = tuple[list[int], list[int]]  # the tokens of a text, and of what follows it

_CHUNK = 256  # texts that the tokenizer gets at a time, since it holds lists of integers; heuristic


def chunks(texts: Sequence[Any]) -> list[slice]:
    """List the slices of texts that a tokenizer gets at a time."""
    return [slice(start, start + _CHUNK) for start in range(0, len(texts), _CHUNK)]


def as_row(values: Sequence[int]) -> Row:
    """Copy values to a read-only array (T,); equal rows of only ones, or only zeros, share one array."""
    for value in (0, 1):
        if len(values) and values[0] == value and list(values).count(value) == len(values):
            return filled(value, len(values))
    return read_only(np.array(values, dtype=np.int32))


@cache
def filled(value: int, n: int) -> Row:
    """Make a read-only array (n,) of one value, the same at every call: most masks are such rows."""
    return read_only(np.full(n, value, dtype=np.int32))


def read_only(row: Row) -> Row:
    """Make an array read-only in place, and return it."""
    row.setflags(write=False)
    return row


def split_rows(encoded: Mapping[str, Sequence[Any]]) -> list[Example]:
    """Turn a tokenizer's output, a list of rows per feature, into one example per row."""
    columns = [map(as_row, rows) for rows in encoded.values()]
    return [dict(zip(encoded, row, strict=True)) for row in zip(*columns, strict=True)]


def token_pairs(
    tokenizer: Any, texts: Sequence[str], continuations: Sequence[str], *, add_special_tokens: bool
) -> list[Pair]:
    """Tokenize each text and its continuation as two lists of tokens.

    Together they are the tokens of the joined text, which a model reads when it is served; Llama 2's
    tokenizer, for example, puts a space before the first word of a text. If the first text ends within a
    token of the joined one, both are tokenized alone. With `add_special_tokens` a text begins as the
    tokenizer begins texts; a token that it puts at the end is removed.
    """
    ends = {tokenizer.eos_token_id, tokenizer.sep_token_id} if add_special_tokens else set()

    def tokens(texts: Sequence[str], *, special: bool = add_special_tokens) -> list[list[int]]:
        rows: list[list[int]] = tokenizer(list(texts), add_special_tokens=special, verbose=False)["input_ids"]
        for row in rows if special else ():
            while row and row[-1] in ends:
                row.pop()
        return rows

    joined = [text + continuation for text, continuation in zip(texts, continuations, strict=True)]
    pairs = []
    for prompt, whole, continuation in zip(tokens(texts), tokens(joined), continuations, strict=True):
        if whole[: len(prompt)] == prompt:
            pairs.append((prompt, whole[len(prompt) :]))
        else:
            pairs.append((prompt, tokens([continuation], special=False)[0]))
    return pairs


def pair_start(tokenizer: Any) -> str:
    """Choose what begins the second text of a pair: a line break if the tokenizer writes no token between.

    GPT-2's and Qwen's write none: the last word of the first text and the first of the second would join.
    """
    alone, pair = (tokenizer.num_special_tokens_to_add(pair=is_pair) for is_pair in (False, True))
    return "\n" if alone == pair else ""


def tokenized(
    tokenizer: Any, columns: Sequence[Sequence[str]], *, max_length: int
) -> tuple[list[Example], list[int]]:
    """Tokenize texts or pairs; return features, and the lengths in tokens of texts that were cut."""
    examples: list[Example] = []
    cut: list[int] = []
    starts = ["", pair_start(tokenizer)] if len(columns) > 1 else [""]
    for part in chunks(columns[0]):
        texts = [
            [start + text for text in column[part]] for start, column in zip(starts, columns, strict=True)
        ]
        rows = split_rows(tokenizer(*texts, truncation=True, max_length=max_length))
        full = [i for i, row in enumerate(rows) if len(row["input_ids"]) >= max_length]
        if full:  # only these may have been cut: tokenize them without a limit
            whole = tokenizer(*([column[i] for i in full] for column in texts), verbose=False)["input_ids"]
            cut += [len(ids) for ids in whole if len(ids) > max_length]
        examples += rows
    return examples, cut

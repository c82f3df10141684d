"""Texts become rows of token features: arrays of four bytes a token, where Python integers take forty."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autopeft.extension import Example

Row = NDArray[np.int32]
Pair = tuple[list[int], list[int]]  # the tokens of a text, and of what follows it

_CHUNK = 1000  # texts that the tokenizer gets at once, whose lists of integers are held; chosen by hand


def chunks(n_texts: int) -> Iterator[slice]:
    """Parts of so many texts that a tokenizer gets at once.

    Example:
        >>> list(chunks(1500))
        [slice(0, 1000, None), slice(1000, 2000, None)]
    """
    return (slice(start, start + _CHUNK) for start in range(0, n_texts, _CHUNK))


def as_row(values: Sequence[int]) -> Row:
    """The values as a read-only array (T,); rows of ones, or of zeros, of the same length are one array."""
    first = values[0] if len(values) else None
    if (first == 0 or first == 1) and list(values).count(first) == len(values):
        return filled(int(first), len(values))
    return read_only(np.array(values, dtype=np.int32))


@cache
def filled(value: int, n: int) -> Row:
    """The same read-only array (n,) of one value at every call: most rows of a mask or of types are such."""
    return read_only(np.full(n, value, dtype=np.int32))


def read_only(row: Row) -> Row:
    """The same array, which can be written to no longer."""
    row.setflags(write=False)
    return row


def split_rows(encoded: Mapping[str, Sequence[Any]]) -> list[Example]:
    """One example per row of what a tokenizer gives, which is a list of rows per feature."""
    columns = [map(as_row, rows) for rows in encoded.values()]
    return [dict(zip(encoded, row, strict=True)) for row in zip(*columns, strict=True)]


def token_pairs(
    tokenizer: Any, befores: Sequence[str], afters: Sequence[str], *, add_special_tokens: bool
) -> list[Pair]:
    """The tokens of each text, and of the text that follows it.

    Both are tokenised apart, but by a tokenizer that begins every text with a space, as Llama 2's does:
    there would be a space before each second text. Such pairs are tokenised as one text too, whose tokens
    behind those of the first are the second's; apart again where the first ends within a token.

    Args:
        tokenizer: Of the base model.
        befores: The first texts.
        afters: The second texts, as many.
        add_special_tokens: Whether the first text begins as the tokenizer begins texts. A token that it puts
            at their end is left out.
    """
    ends = {tokenizer.eos_token_id, tokenizer.sep_token_id} if add_special_tokens else set()

    def tokens(texts: Sequence[str], *, special: bool) -> list[list[int]]:
        ids: list[list[int]] = tokenizer(list(texts), add_special_tokens=special, verbose=False)["input_ids"]
        return ids

    firsts = [_without_ends(ids, ends) for ids in tokens(befores, special=add_special_tokens)]
    seconds: dict[int, list[int]] = {}
    if _begins_texts_with_space(tokenizer):
        texts = [before + after for before, after in zip(befores, afters, strict=True)]
        (mark,) = tokens(["a"], special=add_special_tokens)
        n_ends = len(mark) - len(_without_ends(mark, ends))
        for i, whole in enumerate(tokens(texts, special=add_special_tokens)):
            if whole[: len(firsts[i])] == firsts[i]:
                seconds[i] = whole[len(firsts[i]) : len(whole) - n_ends]
    apart = [i for i in range(len(afters)) if i not in seconds]
    if apart:
        seconds.update(zip(apart, tokens([afters[i] for i in apart], special=False), strict=True))
    return [(first, seconds[i]) for i, first in enumerate(firsts)]


def _without_ends(ids: list[int], ends: Collection[int | None]) -> list[int]:
    n = len(ids)
    while n and ids[n - 1] in ends:
        n -= 1
    return ids[:n]


def _begins_texts_with_space(tokenizer: Any) -> bool:
    """Whether a word has other tokens at the beginning of a text than behind a line break."""
    texts = ["\n", "a", " a", "\na", "\n a"]
    ids: list[list[int]] = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
    line, word, spaced, *joined = ids
    return [[*line, *word], [*line, *spaced]] != joined


def pair_start(tokenizer: Any) -> str:
    """What the second text of a pair begins with: a line break where the tokenizer writes no token between.

    GPT-2's and Qwen's write none, so that the last word of a text and the first of the next are one.
    """
    alone, pair = (tokenizer.num_special_tokens_to_add(pair=is_pair) for is_pair in (False, True))
    return "\n" if alone == pair else ""


def pair_form(tokenizer: Any) -> str:
    """How a pair is written as one text, in words; empty where a token stands between its texts."""
    if not pair_start(tokenizer):
        return ""
    return "The second text of a pair follows a line break, since the tokenizer puts nothing between the two."


def tokenized(
    tokenizer: Any, columns: Sequence[Sequence[str]], *, max_length: int
) -> tuple[list[Example], list[int]]:
    """Features of texts, or of pairs of texts, and the full lengths of those that were cut to `max_length`.

    A pair is cut at its longer text. Its second text begins on a new line where the tokenizer puts nothing
    between the two.

    Args:
        tokenizer: Of the base model.
        columns: The texts; for pairs, the second texts too.
        max_length: Most tokens of an example.
    """
    examples: list[Example] = []
    cut: list[int] = []
    starts = ["", pair_start(tokenizer)] if len(columns) > 1 else [""]
    for part in chunks(len(columns[0])):
        pieces = zip(starts, (column[part] for column in columns), strict=True)
        texts = [[start + text for text in piece] for start, piece in pieces]
        rows = split_rows(tokenizer(*texts, truncation=True, max_length=max_length))
        full = [i for i, row in enumerate(rows) if len(row["input_ids"]) >= max_length]
        if full:  # only these may have been cut; a second look tells
            whole = tokenizer(*([column[i] for i in full] for column in texts), verbose=False)["input_ids"]
            cut += [len(ids) for ids in whole if len(ids) > max_length]
        examples += rows
    return examples, cut

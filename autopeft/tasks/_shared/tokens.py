"""Turns texts into rows of token features: arrays with 4 bytes a token, of which Python lists take 40."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence, Sized
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autopeft.plugins import Example

Row = NDArray[np.int32]
Pair = tuple[list[int], list[int]]  # the tokens of a text, and of what follows it

# Texts, and characters, that the tokenizer gets at a time, since it holds lists of integers; chosen by hand.
_CHUNK, _CHUNK_CHARACTERS = 1000, 4_000_000
# Long texts are cut to characters before they are tokenized. A token of English has 5 characters; a token of
# white space or code some dozens. At the cut a few tokens differ from those of the whole. All chosen by hand.
_TOKEN_CHARACTERS, _SEAM_TOKENS = 16, 64
_BEGINNING, _BEGINNING_TOKENS = 64, 256  # characters, and their most tokens: 4 bytes each, a token a byte


def chunks(*columns: Sequence[Sized]) -> Iterator[slice]:
    """Yield slices of texts, or of rows of several texts, that a tokenizer gets at a time.

    Example:
        >>> list(chunks(["a"] * 1500))
        [slice(0, 1000, None), slice(1000, 1500, None)]
        >>> list(chunks(["a" * 3_000_000] * 2))
        [slice(0, 1, None), slice(1, 2, None)]
    """
    start, n_characters = 0, 0
    for i, row in enumerate(zip(*columns, strict=True)):
        n_characters += (n := sum(map(len, row)))
        if i > start and (i - start == _CHUNK or n_characters > _CHUNK_CHARACTERS):
            yield slice(start, i)
            start, n_characters = i, n
    if len(columns[0]) > start:
        yield slice(start, len(columns[0]))


def _most_characters(max_length: int) -> int:
    """Compute how long a text may be so that none of it is cut off before it is tokenized."""
    return _TOKEN_CHARACTERS * (max_length + _SEAM_TOKENS)


def beginnings(tokenizer: Any, texts: Sequence[str], *, max_length: int) -> list[str]:
    """Cut off long texts far behind their first `max_length` tokens; not if the tokenizer truncates left."""
    if getattr(tokenizer, "truncation_side", "right") != "right":
        return list(texts)
    n_tokens, n_characters = max_length + _SEAM_TOKENS, _most_characters(max_length)
    return _shortened(tokenizer, texts, lambda text, n: text[:n], n_tokens, n_characters)


def endings(tokenizer: Any, texts: Sequence[str], *, max_length: int) -> list[str]:
    """Cut the middle out of long texts: their first characters and last `max_length` tokens stay."""

    def cut(text: str, n: int) -> str:
        return text[:_BEGINNING] + text[len(text) - n + _BEGINNING :]

    n_tokens = max_length + _SEAM_TOKENS + _BEGINNING_TOKENS
    return _shortened(tokenizer, texts, cut, n_tokens, _most_characters(max_length))


def tokens_in_words(n_tokens: int, columns: Sequence[Sequence[str]], *, max_length: int) -> str:
    """Write the tokens of the longest text, as "more than" if only a part of a text was tokenized."""
    is_part = any(len(text) > _most_characters(max_length) for column in columns for text in column)
    return f"more than {n_tokens}" if is_part else f"{n_tokens}"


def _shortened(
    tokenizer: Any, texts: Sequence[str], cut: Callable[[str, int], str], n_tokens: int, n_characters: int
) -> list[str]:
    """Cut long texts to `n_characters`; double these for a text until its cut has `n_tokens` tokens."""
    shortened = list(texts)
    too_long = [i for i, text in enumerate(texts) if len(text) > n_characters]
    while too_long:
        cuts = {i: cut(texts[i], n_characters) for i in too_long}
        rows = tokenizer([*cuts.values()], truncation=True, max_length=n_tokens, verbose=False)["input_ids"]
        have_few = [i for i, row in zip(too_long, rows, strict=True) if len(row) < n_tokens]
        for i in cuts.keys() - have_few:
            shortened[i] = cuts[i]
        n_characters *= 2
        too_long = [i for i in have_few if len(texts[i]) > n_characters]
    return shortened


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

    Most tokenizers get the two apart. One that begins every text with a space, as Llama 2's does, gets
    them as one text: the tokens after those of the first text are the continuation's. If the first text ends
    within a token, it gets them apart, too. With `add_special_tokens` a text begins as the tokenizer begins
    texts; a token that it puts at the end is removed.
    """
    ends = {tokenizer.eos_token_id, tokenizer.sep_token_id} if add_special_tokens else set()

    def tokens(texts: Sequence[str], *, special: bool) -> list[list[int]]:
        ids: list[list[int]] = tokenizer(list(texts), add_special_tokens=special, verbose=False)["input_ids"]
        return ids

    prompts = [_without_ends(ids, ends) for ids in tokens(texts, special=add_special_tokens)]
    completions: dict[int, list[int]] = {}
    line, word, spaced, *joined = tokens(["\n", "a", " a", "\na", "\n a"], special=False)
    if [[*line, *word], [*line, *spaced]] != joined:  # a word has other tokens at the beginning of a text
        wholes = [text + continuation for text, continuation in zip(texts, continuations, strict=True)]
        (mark,) = tokens(["a"], special=add_special_tokens)
        n_ends = len(mark) - len(_without_ends(mark, ends))
        for i, whole in enumerate(tokens(wholes, special=add_special_tokens)):
            if whole[: len(prompts[i])] == prompts[i]:
                completions[i] = whole[len(prompts[i]) : len(whole) - n_ends]
    apart = [i for i in range(len(continuations)) if i not in completions]
    if apart:
        ids_apart = tokens([continuations[i] for i in apart], special=False)
        completions.update(zip(apart, ids_apart, strict=True))
    return [(prompt, completions[i]) for i, prompt in enumerate(prompts)]


def _without_ends(ids: list[int], ends: Collection[int | None]) -> list[int]:
    n = len(ids)
    while n and ids[n - 1] in ends:
        n -= 1
    return ids[:n]


def pair_start(tokenizer: Any) -> str:
    """Choose what begins the second text of a pair: a line break if the tokenizer writes no token between.

    GPT-2's and Qwen's write none: the last word of the first text and the first of the second would join.
    """
    alone, pair = (tokenizer.num_special_tokens_to_add(pair=is_pair) for is_pair in (False, True))
    return "\n" if alone == pair else ""


def pair_form(tokenizer: Any) -> str:
    """Say in words how a pair is written as one text; empty if a token stands between its texts."""
    if not pair_start(tokenizer):
        return ""
    return "The second text of a pair follows a line break, since the tokenizer puts nothing between the two."


def tokenized(
    tokenizer: Any, columns: Sequence[Sequence[str]], *, max_length: int
) -> tuple[list[Example], list[int]]:
    """Tokenize texts or pairs of texts; return features, and the lengths in tokens of texts that were cut.

    A pair is cut at its longer text. Its second text begins on a new line if the tokenizer puts nothing
    between the two. The length of a very long text is that of its beginning, which alone is tokenized.
    """
    examples: list[Example] = []
    cut: list[int] = []
    starts = ["", pair_start(tokenizer)] if len(columns) > 1 else [""]
    for part in chunks(*columns):
        pieces = zip(starts, (column[part] for column in columns), strict=True)
        texts = [
            beginnings(tokenizer, [start + text for text in piece], max_length=max_length)
            for start, piece in pieces
        ]
        rows = split_rows(tokenizer(*texts, truncation=True, max_length=max_length))
        full = [i for i, row in enumerate(rows) if len(row["input_ids"]) >= max_length]
        if full:  # only these may have been cut: tokenize them without a limit
            whole = tokenizer(*([column[i] for i in full] for column in texts), verbose=False)["input_ids"]
            cut += [len(ids) for ids in whole if len(ids) > max_length]
        examples += rows
    return examples, cut

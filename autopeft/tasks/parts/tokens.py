"""Texts become rows of token features: arrays of four bytes a token, where Python integers take forty."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence, Sized
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autopeft.extension import Example

Row = NDArray[np.int32]
Pair = tuple[list[int], list[int]]  # the tokens of a text, and of what follows it

# What the tokenizer gets at once, whose lists of integers are held: so many texts, and characters; by hand.
_CHUNK, _CHUNK_CHARACTERS = 1000, 4_000_000
# A token of English has 5 characters, one of white space or code up to some dozens. Where a text is cut to
# characters, the last word and what a tokenizer merges with it are other tokens. All chosen by hand.
_TOKEN_CHARACTERS, _SEAM_TOKENS = 16, 64
_BEGINNING, _BEGINNING_TOKENS = 64, 256  # characters, and the most tokens of these, which are four bytes each


def chunks(*columns: Sequence[Sized]) -> Iterator[slice]:
    """Parts of texts, or of rows of several texts, that a tokenizer gets at once.

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
    """Characters of a text up to which all of it is tokenised for `max_length` tokens."""
    return _TOKEN_CHARACTERS * (max_length + _SEAM_TOKENS)


def beginnings(tokenizer: Any, texts: Sequence[str], *, max_length: int) -> list[str]:
    """Cut off what lies far behind the first `max_length` tokens of long texts."""
    if getattr(tokenizer, "truncation_side", "right") != "right":
        return list(texts)
    n_tokens, n_characters = max_length + _SEAM_TOKENS, _most_characters(max_length)
    return _shortened(tokenizer, texts, lambda text, n: text[:n], n_tokens, n_characters)


def endings(tokenizer: Any, texts: Sequence[str], *, max_length: int) -> list[str]:
    """Cut out what lies between the first characters of long texts and their last `max_length` tokens."""

    def cut(text: str, n: int) -> str:
        return text[:_BEGINNING] + text[len(text) - n + _BEGINNING :]

    n_tokens = max_length + _SEAM_TOKENS + _BEGINNING_TOKENS
    return _shortened(tokenizer, texts, cut, n_tokens, _most_characters(max_length))


def tokens_in_words(n_tokens: int, columns: Sequence[Sequence[str]], *, max_length: int) -> str:
    """The tokens of the longest text, in words: of a long one only a part was tokenised."""
    is_part = any(len(text) > _most_characters(max_length) for column in columns for text in column)
    return f"more than {n_tokens}" if is_part else f"{n_tokens}"


def _shortened(
    tokenizer: Any, texts: Sequence[str], cut: Callable[[str, int], str], n_tokens: int, n_characters: int
) -> list[str]:
    """Cut long texts to so many characters, or a power of two times as many, as have the tokens."""
    shortened = list(texts)
    too_long = [i for i, text in enumerate(texts) if len(text) > n_characters]
    while too_long:
        tried = {i: cut(texts[i], n_characters) for i in too_long}
        rows = tokenizer([*tried.values()], truncation=True, max_length=n_tokens, verbose=False)["input_ids"]
        have_few = [i for i, row in zip(too_long, rows, strict=True) if len(row) < n_tokens]
        for i in tried.keys() - have_few:
            shortened[i] = tried[i]
        n_characters *= 2
        too_long = [i for i in have_few if len(texts[i]) > n_characters]
    return shortened


def as_row(values: Sequence[int]) -> Row:
    """The values as a read-only array (T,); rows of ones, or of zeros, of the same length are one array."""
    for value in (0, 1):
        if len(values) and values[0] == value and list(values).count(value) == len(values):
            return filled(value, len(values))
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
    tokenizer: Any, texts: Sequence[str], continuations: Sequence[str], *, add_special_tokens: bool
) -> list[Pair]:
    """Tokenise each text, and the text that follows it.

    Both are tokenised apart, but by a tokenizer that begins every text with a space, as Llama 2's does:
    there would be a space before each continuation. Such pairs are tokenised as one text too, whose tokens
    behind those of the text are the continuation's; apart again where the text ends within a token.

    Args:
        tokenizer: Of the base model.
        texts: The first texts.
        continuations: The texts that follow, as many.
        add_special_tokens: Whether a text begins as the tokenizer begins texts. A token that it puts at the
            end is left out.
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
    """Tokenise texts, or pairs of texts; gives features, and the lengths of those that were cut.

    A pair is cut at its longer text. Its second text begins on a new line where the tokenizer puts nothing
    between the two. A text of more than 16 characters a token counts as its beginning.

    Args:
        tokenizer: Of the base model.
        columns: The texts; for pairs, the second texts too.
        max_length: Most tokens of an example.
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
        if full:  # only these may have been cut; a second look tells
            whole = tokenizer(*([column[i] for i in full] for column in texts), verbose=False)["input_ids"]
            cut += [len(ids) for ids in whole if len(ids) > max_length]
        examples += rows
    return examples, cut

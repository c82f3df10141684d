"""General text, beside the dataset of a run: plain texts that none of its rows repeats."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from autopeft.data.columns import as_string, usual
from autopeft.data.cutting import PRECIOUS, plain
from autopeft.data.language import TEXT_NAMES
from autopeft.data.sources import PARAGRAPH, TABLES, TEXTS, read
from autopeft.errors import DataError, UnknownNameError
from autopeft.records import DataSpec, ForgettingSpec

_SEED = 64  # of the order of documents; any fixed number


@dataclass(frozen=True, kw_only=True)
class GeneralRows:
    """Plain texts; `kind` is documents or stream, as `extension.Target` has it.

    A stream is one text, so that a tokenizer sees no seams in it; `n_texts` counts its paragraphs.
    """

    name: str
    kind: str
    texts: tuple[str, ...]
    n_texts: int
    n_duplicates: int


def read_general(spec: ForgettingSpec, *, known: Collection[str], max_characters: int) -> GeneralRows:
    """The first texts of a source, up to some characters, without those that the dataset has too.

    The test split of the source is read where it has one, else its validation split, else all. Text files
    are one text, read from its beginning; the rows of a table are documents, in a fixed random order.

    Args:
        spec: Where the text is; its `source` is given.
        known: Texts of the dataset; case and spacing are no difference.
        max_characters: Where to stop; the last text is cut there.

    Raises:
        DataError: The source cannot be read, or nothing is left of it.
        UnknownNameError: There is no such column.
    """
    asked = DataSpec(source=spec.source, config_name=spec.config_name)
    try:
        name, tables = read(asked, [], suffixes=(*TABLES, *TEXTS))
        part = next(part for part in PRECIOUS if part in tables)
        chosen = tables[part]
        column = _column(spec, chosen[0].column_names)
        seen = {plain(text) for text in known}
        texts, n_duplicates, left = [], 0, max_characters
        for text in _texts(chosen, column):
            if text.strip() and plain(text) in seen:
                n_duplicates += 1
            elif left > 0:
                texts.append(text[:left])
                left -= len(text)
            if left <= 0:
                break
    except DataError as error:
        said = str(error).replace("data.config_name", "forgetting.config_name")
        raise DataError(f"The general text of --forgetting cannot be read: {said}") from error
    if not any(text.strip() for text in texts):
        why = (
            f"its {n_duplicates} texts are rows of the data" if n_duplicates else f"column {column} is blank"
        )
        raise DataError(
            f"There is no general text left in {spec.source}, as {why}; give --forgetting a text of "
            "another kind."
        )
    is_stream = column == PARAGRAPH
    return GeneralRows(
        name=_said(spec, name, part, n_parts=len(tables)),
        kind="stream" if is_stream else "documents",
        texts=("".join(texts),) if is_stream else tuple(texts),
        n_texts=len(texts),
        n_duplicates=n_duplicates,
    )


def _said(spec: ForgettingSpec, name: str, part: str, *, n_parts: int) -> str:
    """A source as a stranger may know it: a file with its folder, a corpus with the split that was read."""
    path = Path(str(spec.source)).expanduser()
    if path.is_file():
        return "/".join(path.resolve().parts[-2:])
    return f"{name}, {part.replace('confirm', 'validation')} split" if n_parts > 1 else name


def _column(spec: ForgettingSpec, names: Sequence[str]) -> str:
    if list(names) == [PARAGRAPH]:
        return PARAGRAPH
    if spec.text_column is not None and spec.text_column not in names:
        raise UnknownNameError("column", spec.text_column, names)
    column = spec.text_column or usual(names, TEXT_NAMES)
    if column is None:
        raise DataError(
            f"none of the columns {', '.join(names)} is called {TEXT_NAMES.replace(' ', ', ')}; name the one "
            "with plain text by --set forgetting.text_column=COLUMN."
        )
    return column


def _texts(tables: Sequence[Any], column: str) -> Iterator[str]:
    """Cells that hold a text; all but those of text files in a fixed random order."""
    for table in tables:
        if column not in table.column_names:
            raise DataError(f"one table lacks column {column}; it has {', '.join(table.column_names)}.")
    places = [(table, row) for table in tables for row in range(len(table))]
    order = (
        range(len(places)) if column == PARAGRAPH else np.random.default_rng(_SEED).permutation(len(places))
    )
    for at in order:
        table, row = places[int(at)]
        cell = table[row][column]
        text = cell if column == PARAGRAPH else as_string(cell, column)
        if text is not None:
            yield text

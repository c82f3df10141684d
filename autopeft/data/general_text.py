"""General text beside the dataset of a run: plain texts, without those that the dataset holds too."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from autopeft.data.cells import as_string
from autopeft.data.columns import column_list, first_usual_column
from autopeft.data.duplicates import PRECIOUS, normalised
from autopeft.data.files import PARAGRAPH, PARAGRAPHS
from autopeft.data.language import TEXT_NAMES
from autopeft.data.sources import read
from autopeft.errors import DataError, UnknownNameError
from autopeft.extension import TargetKind
from autopeft.records import DataSpec, ForgettingSpec, counted, path_at_home

_SEED = 64  # of the order of documents; any fixed number


@dataclass(frozen=True, kw_only=True)
class GeneralRows:
    """Plain texts; `kind` is `documents` or `stream` (see `extension.Target`).

    The paragraphs of a stream are joined to one text, so that a tokenizer sees no seams; `n_texts` counts
    its paragraphs.
    """

    name: str
    kind: TargetKind
    texts: tuple[str, ...]
    n_texts: int
    n_duplicates: int


def read_general(spec: ForgettingSpec, *, known: Collection[str], max_characters: int) -> GeneralRows:
    """The first texts of a source, without the `known` ones of the dataset; case and spacing do not count.

    The test split is read if the source has one, else its validation split, else all of it. Text files are
    one text, read from its beginning; the rows of a table are documents, in a fixed random order. The last
    text is cut at `max_characters` of all texts together.

    Raises:
        DataError: The source cannot be read, or no text is left.
        UnknownNameError: There is no such column.
    """
    try:
        source = DataSpec(source=spec.source, config_name=spec.config_name)
        name, tables = read(source, [], text=PARAGRAPHS, needs_train=False)
        part = next(part for part in PRECIOUS if part in tables)
        column = _column(spec, tables[part][0].column_names)
        known_texts = {normalised(text) for text in known}
        texts, n_duplicates, n_left = [], 0, max_characters
        for text in _texts(tables[part], column):
            if text.strip() and normalised(text) in known_texts:
                n_duplicates += 1
            elif n_left > 0:
                texts.append(text[:n_left])
                n_left -= len(text)
            if n_left <= 0:
                break
    except DataError as error:
        reason = str(error).replace("data.config_name", "forgetting.config_name")
        raise DataError(f"The general text of --forgetting cannot be read: {reason}") from error
    if not any(text.strip() for text in texts):
        duplicates = f"the data hold its {counted(n_duplicates, 'text')} too"
        raise DataError(
            f"There is no general text left in {spec.source}, as "
            f"{duplicates if n_duplicates else f'column {column} is blank'}; give --forgetting a text of "
            "another kind."
        )
    is_stream = column == PARAGRAPH
    return GeneralRows(
        name=_public_name(spec, name, part, n_parts=len(tables)),
        kind="stream" if is_stream else "documents",
        texts=("".join(texts),) if is_stream else tuple(texts),
        n_texts=len(texts),
        n_duplicates=n_duplicates,
    )


def _public_name(spec: ForgettingSpec, name: str, part: str, *, n_parts: int) -> str:
    """A name without this machine's paths: a file with its folder, a corpus with the split that was read."""
    path = path_at_home(str(spec.source))
    if path.is_file():
        return "/".join(path.resolve().parts[-2:])
    return f"{name}, {part.replace('confirm', 'validation')} split" if n_parts > 1 else name


def _column(spec: ForgettingSpec, names: Sequence[str]) -> str:
    if list(names) == [PARAGRAPH]:
        return PARAGRAPH
    if spec.text_column is not None and spec.text_column not in names:
        raise UnknownNameError("column", spec.text_column, names)
    column = spec.text_column or first_usual_column(names, TEXT_NAMES)
    if column is None:
        raise DataError(
            f"none of the columns {column_list(names)} is called {TEXT_NAMES.replace(' ', ', ')}; name the "
            "one with plain text by --set forgetting.text_column=COLUMN."
        )
    return column


def _texts(tables: Sequence[Any], column: str) -> Iterator[str]:
    """The cells that hold a text: paragraphs in order, documents in a fixed random order."""
    for table in tables:
        if column not in table.column_names:
            raise DataError(f"one table lacks column {column}; it has {column_list(table.column_names)}.")
    columns = [table.select_columns(column) for table in tables]  # to decode no other cells of a row
    places = [(cells, row) for cells in columns for row in range(len(cells))]
    if column != PARAGRAPH:
        places = [places[at] for at in np.random.default_rng(_SEED).permutation(len(places)).tolist()]
    for cells, row in places:
        cell = cells[row][column]
        text = cell if column == PARAGRAPH else as_string(cell, column)
        if text is not None:
            yield text

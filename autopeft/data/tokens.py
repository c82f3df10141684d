"""Rows of tokens with one tag each."""

from __future__ import annotations

from typing import Any

from autopeft.data.cells import is_missing, refuse_written_lists
from autopeft.data.columns import (
    Columns,
    cells_of,
    declared_names,
    groups_in,
    label_column,
    name_of,
    only_input,
)
from autopeft.data.dataset import Row, UncutRows
from autopeft.data.files import CONLL, TABLES
from autopeft.data.sources import read
from autopeft.errors import DataError
from autopeft.plugins import IGNORED
from autopeft.types import DataSpec, counted, shortened

TOKEN_NAMES = "tokens words text sentence word token"
TAG_NAMES = "tags ner_tags labels label ner pos_tags tag pos upos"
_NO_TAG = str(IGNORED)  # in tokenized data, the tag of a piece that has none


def read_tokens(spec: DataSpec) -> UncutRows:
    """Read rows of tokens with one tag per token, None where the tag is -100.

    A row's input is one tuple of tokens. Raises a DataError if tokens and tags are not lists, differ in
    number, or a tag is missing.
    """
    source = read(spec, suffixes=(*TABLES, *CONLL))
    table = source.tables["train"][0]
    tokens = only_input(spec, table.column_names, TOKEN_NAMES, content="tokens (lists of words)")
    tags = label_column(spec, table.column_names, inputs=[tokens], usual_names=TAG_NAMES)
    columns = Columns(inputs=(tokens,), label=tags, group=spec.group_column)
    return UncutRows(
        name=source.name,
        splits=source.rows(lambda split, table: _rows(split, table, columns)),
        kind="tags",
        input_columns=columns.inputs,
        label_column=tags,
        declared_names=declared_names(table, tags),
        notes=(*source.notes, f"Tokens are column {tokens}; the tags are column {tags}."),
    )


def _rows(split: str, table: Any, columns: Columns) -> list[Row]:
    """Read the rows of a table, with the names of declared tags; the label is None if no token has a tag."""
    (tokens,) = columns.inputs
    declared = declared_names(table, columns.label)
    rows = []
    token_cells, tag_cells = (cells_of(split, table, name) for name in (tokens, columns.label))
    refuse_written_lists(token_cells, tokens)
    cells = zip(token_cells, tag_cells, groups_in(split, table, columns.group), strict=True)
    for number, (token_cell, tag_cell, group) in enumerate(cells, start=1):
        where = f"row {number} of {split}"
        words = _items(token_cell, tokens)
        if tag_cell is None:
            rows.append(Row((words,), None, group, number))
            continue
        tags = _items(tag_cell, columns.label)
        if len(words) != len(tags):
            raise DataError(
                f"{where.capitalize()} has {counted(len(words), 'token')} and {counted(len(tags), 'tag')} "
                f"({shortened(' '.join(words), 40)}); it should have one tag for each token."
            )
        if "" in tags:
            raise DataError(
                f"{where.capitalize()} has no tag for token {words[tags.index('')]!r}; write O or its tag."
            )
        label = tuple(
            None if tag == _NO_TAG else name_of(tag, declared, where, columns.label) for tag in tags
        )
        rows.append(Row((words or None,), None if set(label) == {None} else label, group, number))
    return rows


def _items(cell: Any, column: str) -> tuple[str, ...]:
    if not isinstance(cell, list | None):
        raise DataError(
            f"Column {column} holds {shortened(str(cell), 40)!r}, not a list of tokens or tags. Convert rows "
            f"of one token with pandas: frame = frame.groupby(SENTENCE_COLUMN)[[{column!r}, TAG_COLUMN]]"
            ".agg(list); frame.to_parquet('rows.parquet')."
        )
    return tuple("" if is_missing(item) else str(item) for item in cell or ())

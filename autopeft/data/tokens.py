"""Rows of tokens with one tag each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from autopeft.data.columns import Columns, is_missing, label_column, name_of, only_input, refuse_written_lists
from autopeft.data.dataset import UncutRows
from autopeft.data.files import CONLL, TABLES
from autopeft.data.sources import read
from autopeft.data.texts import labeled_rows
from autopeft.errors import DataError
from autopeft.plugins import IGNORED
from autopeft.types import DataSpec, counted, shortened

TOKEN_NAMES = "tokens words text sentence word token"
TAG_NAMES = "tags ner_tags labels label ner pos_tags tag pos upos"
_NO_TAG = str(IGNORED)  # in tokenized data, the tag of a piece that has none


def read_tokens(spec: DataSpec) -> UncutRows:
    """Read rows of tokens with one tag per token, None where the tag is -100."""
    source = read(spec, suffixes=(*TABLES, *CONLL))
    table = source.tables["train"][0]
    tokens = only_input(spec, table, TOKEN_NAMES, content="tokens (lists of words)")
    tags = label_column(spec, table, inputs=[tokens], usual_names=TAG_NAMES)
    columns = Columns(inputs=(tokens,), label=tags, group=spec.group_column)
    note = f"Tokens are column {tokens}; the tags are column {tags}."
    rows = labeled_rows(source, columns, note=note, kind="tags", read_input=_tokens, read_label=_tags)
    for split, row in ((split, row) for split, some in rows.splits.items() for row in some):
        words, label = row.inputs[0] or (), row.label
        if label is not None and len(label) != len(words):
            raise DataError(
                f"Row {row.number} of {split} has {counted(len(words), 'token')} and "
                f"{counted(len(label), 'tag')} ({shortened(' '.join(words), 40)}); there should be one tag "
                "for each token."
            )
    return rows


def _tokens(cell: Any, column: str) -> tuple[str, ...] | None:
    return _items(cell, column) or None


def _tags(cell: Any, column: str, declared: Sequence[str], where: str) -> tuple[str | None, ...] | None:
    """Read the tags of a row, by the names of declared tags."""
    if cell is None:
        return None
    tags = _items(cell, column)
    if "" in tags:
        raise DataError(
            f"{where.capitalize()} has no tag for token {tags.index('') + 1}; write O or its tag."
        )
    label = tuple(None if tag == _NO_TAG else name_of(tag, declared, where, column) for tag in tags)
    return None if set(label) == {None} else label


def _items(cell: Any, column: str) -> tuple[str, ...]:
    if not isinstance(cell, list | None):
        refuse_written_lists([cell], column)
        raise DataError(
            f"Column {column} holds {shortened(str(cell), 40)!r}, not a list of tokens or tags. Convert rows "
            f"of one token with pandas: frame = frame.groupby(SENTENCE_COLUMN)[[{column!r}, TAG_COLUMN]]"
            ".agg(list); frame.to_parquet('rows.parquet')."
        )
    return tuple("" if is_missing(item) else str(item) for item in cell or ())

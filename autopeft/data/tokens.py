"""Rows of tokens with one tag each."""

from __future__ import annotations

from collections import Counter
from typing import Any

from autopeft.data.cells import is_missing, refuse_written_lists
from autopeft.data.columns import Columns, cells_of, declared_names, groups_in, name_of, only_input
from autopeft.data.dataset import Row, SplitRows, UncutRows
from autopeft.data.files import CONLL, TABLES
from autopeft.data.labels import WITHOUT_LABEL, drop_unlabeled, label_column, names_in, order_of
from autopeft.data.sources import read
from autopeft.errors import DataError
from autopeft.plugins import IGNORED, LabelSpace
from autopeft.types import DataSpec, counted, listed, shortened

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
    raw = source.rows(lambda split, table: _rows(split, table, columns))
    with_tokens: SplitRows = {split: [row for row in rows if row.inputs[0]] for split, rows in raw.items()}
    splits, notes = drop_unlabeled(with_tokens, tags)
    if n_empty := sum(map(len, raw.values())) - sum(map(len, with_tokens.values())):
        notes.append(f"Dropped {counted(n_empty, 'row')} without tokens.")
    counts = Counter(tag for row in splits["train"] for tag in names_in(row.label))
    if len(counts) < 2:
        raise DataError(f"Tag column {tags} has only {list(counts)} in train; at least 2 tags are needed.")
    everywhere = {tag for rows in splits.values() for row in rows for tag in names_in(row.label)}
    if unknown := everywhere - set(counts):
        notes.append(f"No train row has the tags {listed(sorted(unknown))}; elsewhere they count as missed.")
    names = order_of(everywhere, declared_names(table, tags))
    return UncutRows(
        name=source.name,
        splits=splits,
        label_space=LabelSpace(kind="tags", names=names, counts=tuple(counts[tag] for tag in names)),
        input_columns=columns.inputs,
        label_column=tags,
        left_out={
            "rows without tokens": len(raw["train"]) - len(with_tokens["train"]),
            WITHOUT_LABEL: len(with_tokens["train"]) - len(splits["train"]),
        },
        notes=(*source.notes, f"Tokens are column {tokens}; the tags are column {tags}.", *notes),
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
        if tag_cell is None and split != "train":
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
        rows.append(Row((words,), None if set(label) == {None} else label, group, number))
    return rows


def _items(cell: Any, column: str) -> tuple[str, ...]:
    if not isinstance(cell, list | None):
        raise DataError(
            f"Column {column} holds {shortened(str(cell), 40)!r}, not a list of tokens or tags. Convert rows "
            f"of one token with pandas: frame = frame.groupby(SENTENCE_COLUMN)[[{column!r}, TAG_COLUMN]]"
            ".agg(list); frame.to_parquet('rows.parquet')."
        )
    return tuple("" if is_missing(item) else str(item) for item in cell or ())

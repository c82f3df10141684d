"""Rows of tokens with one tag each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from autopeft.data.columns import (
    HIDDEN,
    Columns,
    cells_of,
    declared_names,
    first_cells,
    groups_and_times,
    name_of,
    only_input,
)
from autopeft.data.dataset import Parts, Row, UncutRows
from autopeft.data.formats import SENTENCES
from autopeft.data.labels import WITHOUT_LABEL, label_column, names_in, order_of, with_labels
from autopeft.data.sources import read
from autopeft.errors import DataError
from autopeft.plugins import IGNORED, LabelSpace
from autopeft.types import DataSpec, counted, listed, shortened

TOKEN_NAMES = "tokens words token_list text sentence word token"
TAG_NAMES = "tags ner_tags labels label ner pos_tags tag pos slots upos"
_NO_TAG = str(IGNORED)  # in tokenized data, the tag of a piece that has none


def read_tokens(spec: DataSpec) -> UncutRows:
    """Read rows of tokens with one tag per token, None where the tag is -100.

    A row's input is one tuple of tokens. Tokens and tags may be two lists, or two texts with blanks between.
    Raises a DataError if they differ in number, a tag is missing, or each row holds one token of a sentence.
    """
    source = read(spec, text=SENTENCES)
    table = source.tables["train"][0]
    tokens = only_input(spec, table.column_names, TOKEN_NAMES, content="tokens (lists of words)")
    tags = label_column(spec, table.column_names, inputs=[tokens], usual_names=TAG_NAMES)
    columns = Columns(inputs=(tokens,), label=tags, group=spec.group_column, time=spec.time_column)
    notes = [f"Tokens are column {tokens}; the tags are column {tags}."]
    _refuse_single_tokens(source.tables["train"], columns)
    raw = {
        part: [row for part_table in tables for row in _rows(part, part_table, columns)]
        for part, tables in source.tables.items()
    }
    train_tags = {tag for row in raw["train"] for tag in names_in(row.label)}
    parts: Parts = {}
    left_out: dict[str, int] = {}
    for part, rows in raw.items():
        with_tokens = [row for row in rows if row.inputs[0]]
        n_dropped = len(rows) - len(with_tokens)
        if n_dropped:
            notes.append(f"Dropped {counted(n_dropped, f'{part} row')} without tokens.")
        if part != "train" and HIDDEN not in train_tags:
            with_tokens = [row._replace(label=None) if _hides_tags(row) else row for row in with_tokens]
        parts[part], label_notes = with_labels(part, with_tokens, tags, train_labels=train_tags)
        notes += label_notes
        if part == "train":
            n_untagged = len(with_tokens) - len(parts[part])
            left_out = {"rows without tokens": n_dropped, WITHOUT_LABEL: n_untagged}
        if n_ignored := sum(tag is None for row in parts[part] for tag in row.label):
            notes.append(
                f"The tag {_NO_TAG} of {counted(n_ignored, f'{part} token')} stands for none: such tokens "
                "count neither in training nor in the metric."
            )
    counts = Counter(tag for row in parts["train"] for tag in names_in(row.label))
    if len(counts) < 2:
        raise DataError(f"Tag column {tags} has only {list(counts)} in train; at least 2 tags are needed.")
    everywhere = {tag for rows in parts.values() for row in rows for tag in names_in(row.label)}
    if unknown := everywhere - set(counts):
        notes.append(f"No train row has the tags {listed(sorted(unknown))}; elsewhere they count as missed.")
    names = order_of(everywhere, declared_names(table, tags))
    label_space = LabelSpace(kind="tags", names=names, counts=tuple(counts[tag] for tag in names))
    return columns.uncut(source, parts, label_space, left_out=left_out, notes=notes)


def _rows(part: str, table: Any, columns: Columns) -> list[Row]:
    """Read the rows of a table, with the names of declared tags; the label is None if no token has a tag."""
    (tokens,) = columns.inputs
    declared = declared_names(table, columns.label)
    rows = []
    sides = (cells_of(part, table, name) for name in (tokens, columns.label))
    cells = zip(*sides, *groups_and_times(part, table, columns), strict=True)
    for index, (token_cell, tag_cell, group, time) in enumerate(cells):
        where = f"row {index + 1} of {part}"
        words = _items(token_cell, where)
        if tag_cell is None and part != "train":
            rows.append(Row((words,), None, group, time, index + 1))
            continue
        tags = _items(tag_cell, where)
        if len(words) != len(tags):
            raise DataError(
                f"{where.capitalize()} has {counted(len(words), 'token')} and {counted(len(tags), 'tag')} "
                f"({shortened(' '.join(words), 40)}); it should have one tag for each token."
            )
        if "" in tags:
            raise DataError(
                f"{where.capitalize()} has no tag for token {words[tags.index('')]!r}; write O or its tag."
            )
        label = tuple(None if tag == _NO_TAG else tag for tag in tags)
        is_tagged = not tags or set(label) != {None}
        row = Row((words,), label if is_tagged else None, group, time, index + 1)
        if declared and row.label and not (part != "train" and _hides_tags(row)):
            names = (tag and name_of(tag, declared, where, columns.label) for tag in row.label)
            row = row._replace(label=tuple(names))
        rows.append(row)
    return rows


def _hides_tags(row: Row) -> bool:
    return set(names_in(row.label)) == {HIDDEN}


def _refuse_single_tokens(tables: Sequence[Any], columns: Columns) -> None:
    """Raise DataError if each row is a single word with its tag: then nobody knows the sentences."""
    names = (*columns.inputs, columns.label)
    some_cells = [cell for name in names for cell in first_cells(tables, name)]
    if any(isinstance(c, list) or (isinstance(c, str) and len(c.split()) > 1) for c in some_cells):
        return  # whole columns of lists take long to read
    cells = [cell for table in tables for name in names for cell in cells_of("train", table, name) if cell]
    if len(cells) > 2 and all(isinstance(cell, str) and len(cell.split()) == 1 for cell in cells):
        raise DataError(
            f"Every train row has a single token in column {names[0]} and its tag in {columns.label}; a row "
            "should be a sentence, with a list of tokens and a list of tags: join the rows of each sentence, "
            f"or write a CoNLL file ({', '.join(SENTENCES.suffixes)})."
        )


def _items(cell: Any, where: str) -> tuple[str, ...]:
    if isinstance(cell, str):
        return tuple(cell.split())
    if not isinstance(cell, Iterable | None):
        raise DataError(
            f"{where.capitalize()} has {cell!r}, which is no list of tokens or tags; write a list."
        )
    return tuple("" if item is None or item != item else str(item) for item in cell or ())

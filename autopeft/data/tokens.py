"""Rows of tokens with one tag each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from autopeft.data.columns import Columns, cells_of, declared_names, groups_and_times, name_of, only_input
from autopeft.data.files import SENTENCES
from autopeft.data.labels import label_column, order_of
from autopeft.data.rows import Parts, Row, UncutRows
from autopeft.data.sources import read
from autopeft.errors import DataError
from autopeft.extension import Target
from autopeft.records import DataSpec, shortened

TOKEN_NAMES = "tokens words token_list text sentence"
TAG_NAMES = "tags ner_tags labels label ner pos_tags pos slots upos"


def read_tokens(spec: DataSpec, notes: list[str]) -> UncutRows:
    """Rows whose input is one tuple of tokens and whose label has one tag per token.

    Tokens and tags may be two lists, or two texts with blanks between. Raises a DataError if they differ in
    number, or a tag is missing.
    """
    name, tables = read(spec, notes, text=SENTENCES)
    table = tables["train"][0]
    tokens = only_input(spec, table.column_names, TOKEN_NAMES, content="tokens")
    tags = label_column(spec, table.column_names, inputs=[tokens], usual_names=TAG_NAMES)
    columns = Columns(inputs=(tokens,), label=tags, group=spec.group_column, time=spec.time_column)
    notes.append(f"Tokens are column {tokens}; the tags are column {tags}.")
    parts: Parts = {}
    left_out: dict[str, int] = {}
    for part, part_tables in tables.items():
        rows = [row for part_table in part_tables for row in _rows(part, part_table, columns)]
        parts[part] = [row for row in rows if row.inputs[0]]
        if n_dropped := len(rows) - len(parts[part]):
            left_out |= {"rows without tokens": n_dropped} if part == "train" else {}
            notes.append(f"Dropped {n_dropped} {part} rows without tokens.")
    counts = Counter(tag for row in parts["train"] for tag in row.label)
    if len(counts) < 2:
        raise DataError(f"Tag column {tags} has only {list(counts)} in train; at least 2 tags are needed.")
    if unknown := {tag for rows in parts.values() for row in rows for tag in row.label} - set(counts):
        listed = ", ".join(sorted(unknown))
        notes.append(f"No train row has the tags {listed}; elsewhere they count as missed.")
    names = order_of({*counts, *unknown}, declared_names(table, tags))
    target = Target(kind="tags", names=names, counts=tuple(counts[tag] for tag in names))
    return columns.uncut(name, parts, target, left_out=left_out)


def _rows(part: str, table: Any, columns: Columns) -> list[Row]:
    (tokens,) = columns.inputs
    declared = declared_names(table, columns.label)
    rows = []
    sides = (cells_of(part, table, name) for name in (tokens, columns.label))
    cells = zip(*sides, *groups_and_times(part, table, columns), strict=True)
    for index, (token_cell, tag_cell, group, time) in enumerate(cells):
        where = f"row {index + 1} of {part}"
        words, tags = _list(token_cell, where), _list(tag_cell, where)
        if len(words) != len(tags):
            raise DataError(
                f"{where.capitalize()} has {len(words)} tokens and {len(tags)} tags "
                f"({shortened(' '.join(words), 40)}); it should have one tag for each token."
            )
        if declared:
            tags = tuple(name_of(tag, declared, where, columns.label) if tag else "" for tag in tags)
        if "" in tags:
            raise DataError(
                f"{where.capitalize()} has no tag for token {words[tags.index('')]!r}; write O or its tag."
            )
        rows.append(Row((words,), tags, group, time, index + 1))
    return rows


def _list(cell: Any, where: str) -> tuple[str, ...]:
    if isinstance(cell, str):
        return tuple(cell.split())
    if not isinstance(cell, Iterable | None):
        raise DataError(
            f"{where.capitalize()} has {cell!r}, which is no list of tokens or tags; write a list."
        )
    return tuple("" if item is None or item != item else str(item) for item in cell or ())

"""Rows of tokens with one tag each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from autopeft.data.columns import Columns, beside, cells_of, check_named, in_order, name_of, usual
from autopeft.data.labels import label_column, order_of
from autopeft.data.rows import Parts, Read, Row
from autopeft.data.sources import read
from autopeft.errors import DataError
from autopeft.extension import Target
from autopeft.records import DataSpec

TOKEN_NAMES = "tokens words token_list text sentence"
TAG_NAMES = "tags ner_tags labels label ner pos_tags pos slots upos"


def read_tokens(spec: DataSpec, notes: list[str]) -> Read:
    """Tokens and tags as two lists, or as two texts with blanks between.

    Raises:
        DataError: Lists of different length, or a tag that is missing.
    """
    name, tables = read(spec, notes)
    table = tables["train"][0]
    check_named(spec, table.column_names)
    tokens = spec.text_columns[0] if spec.text_columns else usual(table.column_names, TOKEN_NAMES)
    if not tokens or len(spec.text_columns) > 1:
        seen = ", ".join(spec.text_columns or table.column_names)
        raise DataError(f"One column of tokens is needed, there is {seen}; name it in data.text_columns.")
    tags = label_column(spec, table.column_names, inputs=[tokens], known=TAG_NAMES)
    columns = Columns(inputs=(tokens,), label=tags, group=spec.group_column, time=spec.time_column)
    notes.append(f"Tokens are column {tokens}; the tags are column {tags}.")
    parts: Parts = {}
    for part, found in tables.items():
        rows = [row for own in found for row in _rows(part, own, columns)]
        kept = [entry for entry in rows if entry[0].inputs[0]]
        if len(kept) < len(rows):
            notes.append(f"Dropped {len(rows) - len(kept)} {part} rows without tokens.")
        parts[part] = in_order(part, kept, columns.time)
    counts = Counter(tag for row in parts["train"] for tag in row.label)
    if len(counts) < 2:
        raise DataError(f"Tag column {tags} has only {list(counts)} in train; at least 2 tags are needed.")
    unknown = {tag for rows in parts.values() for row in rows for tag in row.label} - set(counts)
    if unknown:
        notes.append(
            f"No train row has the tags {', '.join(sorted(unknown))}; where they stand they count as missed."
        )
    names = order_of({*counts, *unknown}, _declared(table, tags))
    return Read(
        name=name,
        parts=parts,
        target=Target(kind="tags", names=names, counts=tuple(counts[tag] for tag in names)),
        input_columns=columns.inputs,
        label_column=tags,
        in_order=columns.time is not None,
    )


def _rows(part: str, table: Any, columns: Columns) -> list[tuple[Row, Any]]:
    """Rows with the cell of their time; `inputs` holds the tokens as one tuple."""
    (tokens,) = columns.inputs
    lists = [cells_of(part, table, name) for name in (tokens, columns.label)]
    declared = _declared(table, columns.label)
    found = []
    for index, cells in enumerate(zip(*lists, *beside(part, table, columns), strict=True)):
        words, tags = _list(cells[0]), _list(cells[1])
        if len(words) != len(tags):
            raise DataError(
                f"Row {index + 1} of {part} has {len(words)} tokens and {len(tags)} tags "
                f"({' '.join(words)[:40]} …); it should have one tag for each token."
            )
        where, named = f"row {index + 1} of {part}", tags
        if declared:
            named = tuple(name_of(tag, declared, where, columns.label) if tag else "" for tag in tags)
        if "" in named:
            raise DataError(
                f"Row {index + 1} of {part} has no tag for token {words[named.index('')]!r}; write O."
            )
        found.append((Row((words,), named, cells[2]), cells[3]))
    return found


def _list(cell: Any) -> tuple[str, ...]:
    if isinstance(cell, str):
        return tuple(cell.split())
    return tuple("" if item is None or item != item else str(item) for item in cell or ())


def _declared(table: Any, column: str) -> Sequence[str]:
    feature = table.features.get(column)
    return getattr(getattr(feature, "feature", feature), "names", None) or ()

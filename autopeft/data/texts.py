"""Reads rows with labels: texts or pairs with a class, several or a number, and tokens with a tag each."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any

import pyarrow as pa

from autopeft.data.columns import (
    HIDDEN,
    NUMBER,
    Columns,
    as_label,
    as_string,
    cells_of,
    check_named,
    column_list,
    declared_names,
    head_of,
    holds_strings,
    holds_texts,
    is_missing,
    label_column,
    name_of,
    only_input,
    refuse_written_lists,
    rows_of,
)
from autopeft.data.dataset import UncutRows
from autopeft.data.files import CONLL, TABLES
from autopeft.data.sources import Source, read
from autopeft.errors import DataError
from autopeft.plugins import IGNORED, LabelKind
from autopeft.types import DataSpec, counted, shortened

# Usual column names, the most telling first; case does not matter.
TEXT_NAMES = (
    "sentence1+sentence2 premise+hypothesis question1+question2 question+sentence text_a+text_b"
    " question+passage question+context question+answer title+text title+content"
    " text sentence content review question query tweet message document comment input prompt"
)
TOKEN_NAMES = "tokens words text sentence word token"
TAG_NAMES = "tags ner_tags labels label ner pos_tags tag pos upos"
_NO_TAG = str(IGNORED)  # in tokenized data, the tag of a piece that has none
_NO_LABEL = ("-100", HIDDEN)  # of a row without a label, in a column with declared names
_MOSTLY = 0.9  # share of the distinct labels that are numbers where numbers are learned; heuristic
MAX_LEVELS = 10  # more distinct numbers, some of them fractions, are a regression target; heuristic


def read_texts(spec: DataSpec) -> UncutRows:
    """Read labeled texts or pairs of texts; the labels decide which kind of label space it is."""
    source = read(spec)
    columns = _choose_columns(spec, source.tables["train"][0])
    of_texts = "texts are in the columns" if columns.inputs[1:] else "text is in column"
    note = f"The {of_texts} {' and '.join(columns.inputs)}, the label is in column {columns.label}."
    return labeled_rows(source, columns, note=note, kind=spec.label_kind)


def labeled_rows(
    source: Source,
    columns: Columns,
    *,
    note: str,
    kind: LabelKind | None = None,
    read_input: Callable[[Any, str], Any] = as_string,
    read_label: Callable[[Any, str, Sequence[str], str], Any] | None = None,
) -> UncutRows:
    """Read the rows of some columns, which the note reports; without a `kind`, the labels decide it."""
    table = source.tables["train"][0]
    refuse_written_lists(cells_of("train", table, columns.label), columns.label)
    read_label = read_label or partial(_read_label, kind=kind)
    splits = source.rows(
        lambda split, table: rows_of(split, table, columns, read_input=read_input, read_label=read_label)
    )
    return UncutRows(
        name=source.name,
        splits=splits,
        kind=kind or _kind([row.label for row in splits["train"]]),
        input_columns=columns.inputs,
        label_column=columns.label,
        declared_names=declared_names(table, columns.label),
        notes=(*source.notes, note),
    )


def _read_label(
    cell: Any, column: str, declared: Sequence[str], where: str, *, kind: LabelKind | None
) -> Any:
    """Read a label as text, or None; as a tuple if it is a list, or one text of several if `kind` says so."""
    if isinstance(cell, list) and kind in (None, "classes"):
        if all(item in (0, 1) for item in cell) and len(set(cell)) < len(cell):
            raise DataError(
                f"{where.capitalize()} has {shortened(str(cell), 40)} in column {column}, a 0 or 1 for each "
                "label; write the names of the labels that the row has instead."
            )
        names = [_read_label(item, column, declared, where, kind="class") for item in cell]
    elif kind == "classes" and cell is not None:
        names = [name.strip() for name in re.split("[,;|]", str(cell))]
    else:
        label = as_label(cell, column)
        has_none = label is None or (declared and label in _NO_LABEL)
        return None if has_none else name_of(str(label), declared, where, column)
    return tuple(dict.fromkeys(filter(None, names)))


def _choose_columns(spec: DataSpec, table: Any) -> Columns:
    """Choose the columns of the texts and of the label; raises DataError without."""
    texts = list(spec.text_columns)
    check_named(spec, table.column_names)
    label = label_column(spec, table, inputs=texts)
    texts = texts or _find_texts(head_of(table), {label, spec.group_column})
    if not texts:
        raise DataError(f"There is no text column among {column_list(table)}; name it with --text-column.")
    if label in texts or len(texts) > 2 or len(set(texts)) < len(texts):
        raise DataError(f"--text-column is {', '.join(texts)}; give 1 or 2 other than the label {label}.")
    return Columns(inputs=tuple(texts), label=label, group=spec.group_column)


def _find_texts(head: pa.Table, not_texts: Collection[str | None]) -> list[str]:
    """Find the columns with the most telling names, else the only one with texts of several words or strings.

    A pair is read only if each of the first rows has its first text: titles and headlines may be missing.
    """
    by_lower = {name.strip().lower(): name for name in head.column_names if name not in not_texts}
    for names in TEXT_NAMES.split():
        columns = [by_lower[name] for name in names.split("+") if name in by_lower]
        if len(columns) < len(names.split("+")):
            continue
        if len(columns) == 1 or all(head.column(columns[0]).to_pylist()):
            return columns
    strings = [name for name in by_lower.values() if holds_strings(head, name)]
    # All cells of a csv file are strings; a column of numbers is an id or a count.
    texts = [name for name in strings if holds_texts(head, name)] or [
        name
        for name in strings
        if not all(NUMBER.fullmatch(cell.strip()) for cell in head.column(name).to_pylist() if cell)
    ]
    return texts if len(texts) == 1 else []


def _kind(labels: Sequence[Any]) -> LabelKind:
    """Choose the kind: `classes` for lists, `number` for more than 10 numbers with fractions, else `class`.

    Up to a tenth of the distinct labels may be other texts: `_numbers` reports such typing errors.
    """
    if any(isinstance(label, tuple) for label in labels):
        return "classes"
    levels = {label for label in labels if label is not None}
    numeric = [level for level in levels if NUMBER.fullmatch(level)]
    has_fractions = len(numeric) > MAX_LEVELS and any("." in level for level in numeric)
    return "number" if has_fractions and len(numeric) >= _MOSTLY * len(levels) else "class"


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

"""The distinct labels of a column: those that stand for none, and what they may mean instead of classes."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Mapping

from autopeft.data.cells import NUMBER
from autopeft.data.columns import HIDDEN, NO_LABEL
from autopeft.data.rows import Row
from autopeft.records import counted, shortened

_FEWEST_BESIDE_HIDDEN = 3  # whole numbers from 0; of -1, 0 and 1 the first may be a class; chosen by hand
_SEPARATOR = re.compile(r"\s*[,;|]\s*")
MAX_LEVELS = 10  # more distinct numbers, some of them fractions, are a regression target; chosen by hand
_WORDS_FOR_NONE = ("nan", "null", "n/a", "<na>", "#n/a")  # as tables write them, but no "none" or "na"
_MOST_IDS = 50  # whole numbers in a row that are taken for ids of classes; chosen by hand
# A number with a sign of currency, per cent or thousands.
_AMOUNT = re.compile(r"[-+]?[$€£¥]?\s?[-+]?(\d+|\d{1,3}(,\d{3})+)(\.\d*)?\s?[%$€£¥]?")


def without_placeholders(
    raw: dict[str, list[Row]], column: str, *, is_open: bool, notes: list[str]
) -> dict[str, list[Row]]:
    """The rows with None for labels that stand for none: -100, and a rare -1 beside 0, 1, 2 and so on.

    `is_open` is False where the user said that the labels are classes; -1 is one of them then.
    """
    counts = Counter(row.label for row in raw["train"] if row.label is not None)
    none = {NO_LABEL} & {row.label for rows in raw.values() for row in rows}
    n_hidden = counts.pop(HIDDEN, 0)
    counts.pop(NO_LABEL, None)
    n = len(counts)
    if is_open and n_hidden and n > 1 and set(counts) == {str(i) for i in range(n)}:
        if n >= _FEWEST_BESIDE_HIDDEN and n_hidden < min(counts.values()):
            none |= {HIDDEN}
            notes.append(
                f"The label -1 in column {column} is rare beside 0 to {n - 1} and stands for none; set "
                "data.label_kind=class to learn it."
            )
        elif n >= _FEWEST_BESIDE_HIDDEN or n_hidden < min(counts.values()):
            notes.append(
                f"The label -1 in column {column} is learned as a class beside 0 to {n - 1}; empty those "
                "cells if it stands for none."
            )
    if NO_LABEL in none:
        notes.append(f"The label {NO_LABEL} in column {column} stands for none.")
    return {
        part: [row._replace(label=None) if row.label in none else row for row in rows]
        for part, rows in raw.items()
    }


def note_numbers(labels: Collection[str], column: str, notes: list[str]) -> None:
    """Note that many numbers, such as prices or ages, are learned as classes; ids begin at 0 or 1."""
    if len(labels) <= MAX_LEVELS or not all(map(_is_amount, labels)):
        return
    if signed := sorted(label for label in labels if not NUMBER.fullmatch(label)):
        notes.append(
            f"The {len(labels)} different labels in column {column}, such as {signed[0]!r}, are learned as "
            "classes; write them as plain numbers to learn their values."
        )
        return
    values = sorted(map(float, labels))
    may_be_ids = values[0] in (0, 1) and values[-1] - values[0] < len(values) <= _MOST_IDS
    if may_be_ids:
        return
    notes.append(
        f"The {len(labels)} different numbers in column {column} are learned as classes; "
        "set data.label_kind=number to learn their values."
    )


def note_spellings(counts: Mapping[str, int], column: str, notes: list[str]) -> None:
    """Note labels that look alike, that seem to be several labels in one cell, or that may stand for none."""
    by_folded: dict[str, list[str]] = {}
    for label in sorted(counts):
        by_folded.setdefault(_folded(label), []).append(label)
    if alike := next((spellings for spellings in by_folded.values() if len(spellings) > 1), None):
        differ_in_case = len({label.casefold() for label in alike}) == 1
        difference = "case" if differ_in_case else "blanks, invisible or look-alike characters"
        show = repr if differ_in_case else ascii
        listed = " and ".join(show(shortened(label, 40)) for label in alike)
        notes.append(
            f"Labels in column {column} differ only in {difference} ({listed}) and are learned as different "
            "classes; write them alike if they are one."
        )
    if none := next((label for label in counts if label.casefold() in _WORDS_FOR_NONE), None):
        notes.append(
            f"The label {none!r} in column {column} is learned as a class of {counted(counts[none], 'row')}; "
            "leave these cells empty if it stands for none."
        )
    labels = set(counts)
    joined = [label for label in labels if _SEPARATOR.search(label)]
    known = [label for label in joined if all(piece in labels for piece in _SEPARATOR.split(label))]
    if 2 * len(known) > len(joined):
        notes.append(
            f"Labels in column {column} such as {shortened(min(known), 40)!r} consist of other labels and "
            "are learned as classes of their own; set data.label_kind=classes to learn several "
            "labels of a row."
        )


def _folded(label: str) -> str:
    """The label without what readers do not see, such as signs of format or a second blank, and without case.

    Example:
        >>> _folded("A  b") == _folded("a b")
        True
    """
    signs = unicodedata.normalize("NFKC", label)
    seen = "".join(sign for sign in signs if unicodedata.category(sign) != "Cf")
    return " ".join(seen.split()).casefold()


def _is_amount(label: str) -> bool:
    return bool(NUMBER.fullmatch(label) or _AMOUNT.fullmatch(label))

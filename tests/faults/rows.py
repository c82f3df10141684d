"""A CSV file of what was tried: rows are appended one by one, and what is there is not tried again."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
from pathlib import Path


class Rows:
    """The rows of a CSV file, by the values of their first columns."""

    def __init__(self, path: Path, *, key: Sequence[str], others: Sequence[str]) -> None:
        self.path, self.key, self.columns = path, tuple(key), (*key, *others)
        self.by_key: dict[tuple[str, ...], Mapping[str, str]] = {}
        if path.is_file():
            with path.open(newline="", encoding="utf-8") as file:
                for row in csv.DictReader(file):
                    self.by_key[tuple(row[name] for name in self.key)] = row
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._append(self.columns)

    def has(self, *key: object) -> bool:
        """Whether a key was tried."""
        return tuple(map(str, key)) in self.by_key

    def add(self, *values: object) -> None:
        """Append a row, values in the order of the columns; it is on the disk afterwards."""
        row = dict(zip(self.columns, map(str, values), strict=True))
        self.by_key[tuple(row[name] for name in self.key)] = row
        self._append(values)

    def _append(self, values: Sequence[object]) -> None:
        with self.path.open("a", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerow(values)
            file.flush()
            os.fsync(file.fileno())

"""A tracker: a line of JSON for each measurement, in a file of the run."""

from __future__ import annotations

import json
from pathlib import Path

from autopeft.extension import Values


class Notebook:
    """Writes `notebook.jsonl`; there is no client to install."""

    name = "notebook"

    def require(self) -> None:
        pass

    def open(self, folder: Path, settings: Values) -> Page:
        return Page(folder / "notebook.jsonl", settings)


class Page:
    def __init__(self, path: Path, settings: Values) -> None:
        self._path = path
        self._path.write_text(json.dumps(dict(settings)) + "\n", encoding="utf-8")

    def measured(self, values: Values, *, number: int) -> None:
        self._add({"number": number, **values})

    def close(self, outcome: Values | None) -> None:
        self._add(outcome)

    def _add(self, values: Values | None) -> None:
        with self._path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(values and dict(values)) + "\n")


PART = Notebook()

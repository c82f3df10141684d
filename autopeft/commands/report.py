"""`report`: write the report of a finished run again."""

from __future__ import annotations

from pathlib import Path

from autopeft import report
from autopeft.report.part_words import part_words
from autopeft.store import RunDir
from autopeft.types import SearchResult


def render(path: Path) -> SearchResult:
    """Write the report of a finished run again."""
    result = RunDir.open(path).load_result()
    report.write(result, path, words=part_words(result))
    return result

"""`report`: write the report of a finished or stopped run again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import filelock

from autopeft import report
from autopeft.report.live import stopped_status
from autopeft.report.part_words import part_words
from autopeft.store import SO_FAR, RunDir, read_record
from autopeft.store.state import logged_measurements
from autopeft.types import (
    SearchResult,
    SearchSoFar,
)


def render(path: Path, out: Path | None = None) -> SearchResult:
    """Write the report of a finished run again, to the folder `out` or to that of the run."""
    result = RunDir.open(path).load_result()
    report.write(result, out or path, words=part_words(result))
    return result


def render_so_far(run: RunDir) -> str:
    """Render the page of an unfinished run again; returns the status on it.

    If another process works on the run, its page stays as it is, and the status says so.

    Raises:
        FileNotFoundError: No page was written yet.
        RunDirError: The file with the state of the search is damaged, or the page cannot be written.
    """
    path = run.state / SO_FAR
    remedy = "continue with --resume, which writes it again"
    so_far = read_record(path, SearchSoFar, remedy=remedy)
    try:
        with filelock.FileLock(run.path / ".lock", timeout=0):
            status = stopped_status("stopped", so_far, run)
            search = replace(so_far, measurements=tuple(logged_measurements(run).values()))
            report.write_so_far(search, run.path, words=part_words(so_far), status=status)
            return status
    except filelock.Timeout:
        return "running in another process, which writes the page"

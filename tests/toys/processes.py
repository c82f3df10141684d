"""Processes that a test has started, read from /proc."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

_WORKERS = ("multiprocessing.spawn", "ray::_Actor")  # in the command lines of workers


def command_of(pid: int) -> str:
    """The command line of a process, with blanks between its words; blank if it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ").strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def descendants(pid: int) -> Iterator[int]:
    """Children of a process, their children, and so on."""
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, path.read_text().split()):
            yield child
            yield from descendants(child)


def running_workers() -> list[int]:
    """Ids of the worker processes of this process."""
    return [pid for pid in descendants(os.getpid()) if any(name in command_of(pid) for name in _WORKERS)]

"""Lets the disk of a search fail in several ways, gives it room again, resumes, and compares the outcome.

    PYTHONPATH=.:tests python tests/faults/filling.py --sizes 30

| way | what fails |
|---|---|
| `disk` | a file system of its own (tmpfs; root only), of `--sizes` sizes up to what the whole run takes |
| `file` | a file that grows beyond `--sizes` sizes, up to the largest of the whole run |
| `sync` | each flush to the disk from the n-th on: input/output error |
| `write` | each rename from the n-th on: no space left |
| `folder` | the run's folders, which may not be written to from the n-th operation on |

Sizes are spread evenly, so that searches end in every stage: scores, rungs, confirmation, report. Each search
runs in a forked copy of this process. Trials are rows of a CSV file; the same command goes on with those that
are missing.
"""

from __future__ import annotations

import argparse
import ctypes
import errno
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from killing import EVENTS, SETTINGS, begun_or_resumed, counting, faults_of, outcome_of, search
from rows import Rows
from toys.folders import write_data, write_model

Begin = Callable[[], Callable[[], int]]

_LEAST = {"disk": 4096, "file": 2048, "folder": 10}  # a page; what stderr needs; folders that are there
_PLENTY = 64 << 20  # bytes
_OVERRIDE = 1 << 1  # CAP_DAC_OVERRIDE of Linux, by which root writes wherever it likes


def nothing() -> int:
    """The number of a search that counts nothing."""
    return 0


def small_file(n_bytes: int) -> Begin:
    """No file grows beyond so many bytes."""

    def begin() -> Callable[[], int]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, resource.RLIM_INFINITY))
        return nothing

    return begin


def failing(name: str, number: int, n_good: int) -> Begin:
    """A function of `os` that raises OSError after so many good calls."""

    def begin() -> Callable[[], int]:
        whole, n_calls = getattr(os, name), iter(range(10**9))

        def call(*args: object, **named: object) -> object:
            if next(n_calls) >= n_good:
                raise OSError(number, os.strerror(number))
            return whole(*args, **named)

        setattr(os, name, call)
        return nothing

    return begin


def counted(name: str) -> Begin:
    """Counts the calls of a function of `os`."""

    def begin() -> Callable[[], int]:
        whole, n_calls = getattr(os, name), [0]

        def call(*args: object, **named: object) -> object:
            n_calls[0] += 1
            return whole(*args, **named)

        setattr(os, name, call)
        return lambda: n_calls[0]

    return begin


def without_override() -> None:
    """Root obeys the permissions of files from now on, as other users do."""
    libc = ctypes.CDLL(None, use_errno=True)
    header, sets = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()  # version 3
    assert libc.capget(header, sets) == 0
    for index in (0, 1):  # effective, permitted
        sets[index] &= ~_OVERRIDE
    assert libc.capset(header, sets) == 0


def locked(out: Path, n_good: int) -> Begin:
    """The folders of a run may not be written to any more before an operation in them."""

    def begin() -> Callable[[], int]:
        without_override()
        n_seen = [0]

        def look(event: str, args: tuple[object, ...]) -> None:
            if event not in EVENTS or not str(args[0]).startswith(str(out)):
                return
            n_seen[0] += 1
            if n_seen[0] == n_good:
                for folder in [path for path in (out, *out.rglob("*")) if path.is_dir()]:
                    folder.chmod(0o555)

        sys.addaudithook(look)
        return nothing

    return begin


def mounted(folder: Path, n_bytes: int, *, is_new: bool) -> None:
    """Give a folder a file system of a size, or change its size."""
    how = f"{'' if is_new else 'remount,'}size={n_bytes // 1024}k"
    subprocess.run(["mount", "-t", "tmpfs", "-o", how, "tmpfs", folder], check=True)


class Trials:
    """Searches with a failing disk, beside the whole one."""

    def __init__(self, folder: Path, n_sizes: int) -> None:
        self.folder, self.n_sizes = folder, n_sizes
        words = ["--model", str(write_model(folder / "bert")), "--data", str(write_data(folder / "data"))]
        self.words = [*words, *SETTINGS]
        whole = folder / "whole"
        code, self.n_operations, errors = search(
            [*self.words, "--out", str(whole)], before=counting(whole, None, "SIGKILL")
        )
        assert code == 0, errors
        self.expected = outcome_of(whole)
        files = [path.stat() for path in whole.rglob("*") if path.is_file()]
        self.n_bytes = sum(file.st_blocks * 512 for file in files)
        self.largest = max(file.st_size for file in files)
        self.n_calls = {name: self._n_calls(name) for name in ("fsync", "replace")}

    def _n_calls(self, name: str) -> int:
        out = self.folder / name
        return search([*self.words, "--out", str(out)], before=counted(name))[1]

    def sizes(self, way: str) -> list[int]:
        """What is left of the disk in the searches of a way, or how many operations succeed."""
        most = {
            "disk": self.n_bytes,
            "file": self.largest,
            "sync": self.n_calls["fsync"],
            "write": self.n_calls["replace"],
            "folder": self.n_operations,
        }[way]
        sizes = [most * index // self.n_sizes for index in range(self.n_sizes)]
        return [max(_LEAST.get(way, 0), size) for size in sizes]

    def run(self, way: str, size: int) -> tuple[int, str, list[str]]:
        """Exit code and last line of the search that fails, and what is wrong after its resumption."""
        folder = self.folder / "disk"
        folder.mkdir()
        out = folder / "run"
        if way == "disk":
            mounted(folder, size, is_new=True)
        begin = {
            "disk": lambda: nothing,
            "file": small_file(size),
            "sync": failing("fsync", errno.EIO, size),
            "write": failing("replace", errno.ENOSPC, size),
            "folder": locked(out, size),
        }[way]
        try:
            code, _, errors = search(begun_or_resumed(self.words, out), before=begin)
            lines = errors.strip().splitlines()
            last = lines[-1].replace(str(folder), "") if lines else ""
            found = ["traceback"] if "Traceback" in errors else []
            if code not in (0, 1, 2) or (code and not last.startswith("error: ")):
                found.append(f"ended with {code}: {errors[-300:]}")
            if way == "disk":
                mounted(folder, _PLENTY, is_new=False)
            for path in [path for path in (out, *out.rglob("*")) if path.is_dir()]:
                path.chmod(0o755)
            again, _, errors = search(begun_or_resumed(self.words, out))
            found += [f"resumed with {again}: {errors[-300:]}"] if again else faults_of(out, self.expected)
            return code, last, found
        finally:
            if way == "disk":
                subprocess.run(["umount", folder], check=True)
            shutil.rmtree(folder)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print one JSON object; the exit code is 1 where anything was lost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, default=30)
    parser.add_argument("--ways", nargs="+", default=["disk", "file", "sync", "write", "folder"])
    parser.add_argument("--csv", type=Path, default=Path("reports/faults/filling.csv"))
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)  # a forked process has no others
    folder = Path(tempfile.mkdtemp(prefix="filling-"))
    trials = Trials(folder, options.sizes)
    rows = Rows(options.csv, key=("way", "size"), others=("code", "sentence", "fault"))
    ways = [way for way in options.ways if os.getuid() == 0 or way != "disk"]
    for way in ways:
        for size in trials.sizes(way):
            if not rows.has(way, size):
                code, sentence, found = trials.run(way, size)
                rows.add(way, size, code, sentence, "; ".join(found))
    shutil.rmtree(folder)
    faults = {f"{way} {size}": row["fault"] for (way, size), row in rows.by_key.items() if row["fault"]}
    print(json.dumps({"trials": len(rows.by_key), "faults": faults}))
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())

"""Ends searches at chosen file operations, resumes them, and compares them with the unbroken one.

    PYTHONPATH=.:tests python tests/faults/killing.py --model DIR --data DIR --ends 200 --executor serial
    PYTHONPATH=.:tests python tests/faults/killing.py --model DIR --data DIR --ends 100 --signal SIGHUP

An end comes before the n-th file operation (open, rename, remove, mkdir …) of the search in its folder; n is
drawn evenly from all of them. Every third search is ended once more while it resumes. Each search runs in a
forked copy of this process, which imports everything once.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from toys.reading import rows_of

from autopeft.cli.app import app
from autopeft.store import RunDir

SETTINGS = "--max-steps 4 --batch-size 8 --budget 5% --trials 4 --confirm-seeds 2 --confirm full".split()
SETTINGS += ["--methods", "ia3,lora", "--max-eval-examples", "20", "--quiet"]
EVENTS = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "shutil.rmtree")
CODES = {"SIGKILL": -9, "SIGINT": 130, "SIGTERM": 143, "SIGHUP": 129}


class Operations:
    """Counts file operations in a folder, and sends a signal to this process before the chosen one."""

    def __init__(self, folder: Path, chosen: int | None, number: int) -> None:
        self.folder, self.chosen, self.number, self.n_seen = str(folder), chosen, number, 0

    def __call__(self, event: str, args: tuple[object, ...]) -> None:
        if event not in EVENTS or not str(args[0]).startswith(self.folder):
            return
        self.n_seen += 1
        if self.n_seen == self.chosen:
            os.kill(os.getpid(), self.number)


def search(words: Sequence[str], out: Path, *, chosen: int | None, name: str) -> tuple[int, int, str]:
    """Exit code (negative: the signal), number of operations, and stderr of a search in a forked process."""
    read_end, write_end = os.pipe()
    errors = tempfile.TemporaryFile(mode="w+")  # noqa: SIM115 - the child writes, the parent reads
    child = os.fork()
    if child == 0:
        os.close(read_end)
        os.setpgid(0, 0)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(errors.fileno(), 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
        signal.signal(signal.SIGINT, signal.default_int_handler)  # both may be ignored where tests run
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        operations = Operations(out, chosen, getattr(signal, name))
        sys.addaudithook(operations)
        code = 1
        try:
            app(["search", *words, "--out", str(out)], standalone_mode=True)
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else int(error.code is not None)
        finally:
            os.write(write_end, str(operations.n_seen).encode())
            sys.stderr.flush()
            os._exit(code)
    os.close(write_end)
    with os.fdopen(read_end) as stream:
        n_seen = int(stream.read() or 0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    errors.seek(0)
    return code, n_seen, errors.read()


def outcome_of(run: Path) -> object:
    """All that a run found, without seconds."""
    answer = json.loads((run / "result.json").read_text())
    return rows_of(run), answer["best"], answer["baseline"], answer["verdict"], answer["test"]


def faults_of(run: Path, expected: object) -> list[str]:
    """What is wrong with a run that was ended and resumed."""
    log = RunDir.open(run).measurements.load()
    lines = (run / "state/measurements.jsonl").read_text().splitlines()
    found = []
    if outcome_of(run) != expected:
        found.append("the outcome differs")
    if len(log) != len(lines):
        found.append("a measurement is there twice")
    if leftovers := [str(path) for path in run.rglob("*.tmp")]:
        found.append(f"left over: {leftovers}")
    return found


def one_end(
    words: Sequence[str], out: Path, *, name: str, chosen: Sequence[int], expected: object
) -> list[str]:
    """End a search, and its resumption where two operations are chosen; resume it, and say what is wrong."""
    ended = []
    for number in chosen:
        options = ["--resume", "--quiet"] if (out / "run.yaml").exists() else words
        code, _, errors = search(options, out, chosen=number, name=name)
        ended.append(code)
        if code not in (0, CODES[name]) or "Traceback" in errors:
            return [f"ended with {code}: {errors[-500:]}"]
        measured = (out / "state/measurements.jsonl").exists()
        if name != "SIGKILL" and code and (f"--resume --out {out}" in errors) != measured:
            return [f"the folder is named wrongly: {errors[-500:]}"]
    options = ["--resume", "--quiet"] if (out / "run.yaml").exists() else words
    code, _, errors = search(options, out, chosen=None, name=name)
    return [f"resumed with {code}: {errors[-500:]}"] if code else faults_of(out, expected)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print one JSON object; the exit code is 1 where anything was lost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--ends", type=int, default=20)
    parser.add_argument("--signal", choices=CODES, default="SIGKILL")
    parser.add_argument("--executor", default="serial")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)  # a forked process has no others
    rng, folder = random.Random(options.seed), Path(tempfile.mkdtemp(prefix="killing-"))
    words = ["--model", str(options.model), "--data", str(options.data), *SETTINGS]
    code, n_operations, errors = search(words, folder / "whole", chosen=None, name=options.signal)
    assert code == 0, errors
    expected = outcome_of(folder / "whole")
    words += ["--executor", options.executor, "--workers", "1" if options.executor == "serial" else "2"]
    faults = {}
    for index in range(options.ends):
        chosen = [rng.randint(1, n_operations) for _ in range(2 if index % 3 == 2 else 1)]
        found = one_end(words, folder / str(index), name=options.signal, chosen=chosen, expected=expected)
        if found:
            faults[f"{index} at {chosen}"] = found
        shutil.rmtree(folder / str(index), ignore_errors=True)
    shutil.rmtree(folder)
    print(json.dumps({"ends": options.ends, "operations": n_operations, "faults": faults}))
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())

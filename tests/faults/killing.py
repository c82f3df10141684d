"""Ends searches at chosen file operations, resumes them, and compares them with the unbroken one.

An end comes before the n-th file operation (open, rename, remove, mkdir …) of the search in its folder. Each
search runs in a forked copy of this process, which has imported everything.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from toys.reading import rows_of

from autopeft.cli.app import app
from autopeft.store import RunDir

SETTINGS = "--max-steps 4 --batch-size 8 --budget 5% --trials 4 --seeds 2".split()
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


def search(
    words: Sequence[str], *, before: Callable[[], Callable[[], int]] = lambda: lambda: 0
) -> tuple[int, int, str]:
    """Exit code (negative: the signal), a number, and stderr of a command in a forked process.

    `before` is called in the process; what it returns gives the number when the search has ended.
    """
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
        number = before()
        code = 1
        try:
            app([*words], standalone_mode=True)
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else int(error.code is not None)
        except Exception:
            traceback.print_exc()
        finally:
            os.write(write_end, str(number()).encode())
            sys.stderr.flush()
            os._exit(code)
    os.close(write_end)
    with os.fdopen(read_end) as stream:
        given = int(stream.read() or 0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    errors.seek(0)
    return code, given, errors.read()


def counting(out: Path, chosen: int | None, name: str) -> Callable[[], Callable[[], int]]:
    """What to do before a search: count its file operations, and send a signal before the chosen one."""

    def before() -> Callable[[], int]:
        operations = Operations(out, chosen, getattr(signal, name))
        sys.addaudithook(operations)
        return lambda: operations.n_seen

    return before


def begun_or_resumed(words: Sequence[str], out: Path) -> list[str]:
    """The words that start a search, or resume the one in its folder."""
    return ["search", *(["--resume", "--quiet"] if (out / "run.yaml").exists() else words), "--out", str(out)]


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
        code, _, errors = search(begun_or_resumed(words, out), before=counting(out, number, name))
        ended.append(code)
        if code not in (0, CODES[name]) or "Traceback" in errors:
            return [f"ended with {code}: {errors[-500:]}"]
        is_run = (out / "run.yaml").exists()
        if name != "SIGKILL" and code and (f"--resume --out {out}" in errors) != is_run:
            return [f"the folder is named wrongly: {errors[-500:]}"]
    code, _, errors = search(begun_or_resumed(words, out))
    return [f"resumed with {code}: {errors[-500:]}"] if code else faults_of(out, expected)

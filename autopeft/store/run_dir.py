"""The run directory: one process at a time, every file whole, every measurement kept."""

from __future__ import annotations

import io
import json
import logging
import os
import shutil
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import filelock
from pydantic import ValidationError

from autopeft.errors import RunDirError
from autopeft.records import (
    Fidelity,
    Measurement,
    Plan,
    RunSpec,
    SearchResult,
    digest_of,
    from_json,
    repeat_words,
    resume_words,
    to_json,
)
from autopeft.store.files import cannot_write, write_text
from autopeft.store.yaml import read_yaml, validate, write_yaml_text

if TYPE_CHECKING:
    from optuna.storages import RDBStorage

_log = logging.getLogger(__name__)

_SPEC_HEADER = """\
# The settings of this run, as resolved from defaults, file, environment and flags.
# Repeat it elsewhere: {repeat}
"""
_STUDY_FILES = ("study.sqlite", "study.sqlite-wal", "study.sqlite-shm", "study.sqlite-journal")
# All that a run writes before its first measurement.
_EARLY_FILES = ("run.yaml", "sensitivity.csv", "state", "best", *_STUDY_FILES, ".lock")
_SQLITE_TIMEOUT_SECONDS = 60  # chosen by hand: a dashboard that reads may hold the file for a moment


def measurement_key(plan: Plan, fidelity: Fidelity) -> str:
    """Ten hexadecimal digits, equal where the same plan is measured at the same fidelity."""
    return digest_of([to_json(plan), to_json(fidelity)])


class RunDir:
    """One run directory; a context manager that holds its lock.

    `RunDir.create` takes the lock and may write; `RunDir.open` only reads.
    """

    def __init__(self, path: Path, *, lock: filelock.BaseFileLock | None = None) -> None:
        """Stand for a directory that exists; use `create` or `open`."""
        self.path = path
        self._lock = lock
        self._made: tuple[Path, ...] = ()
        self._fresh = False
        self._tail_is_whole = False
        self._storage: RDBStorage | None = None

    @classmethod
    def create(cls, path: Path | str, *, resume: bool) -> RunDir:
        """Makes a fresh run directory, or with `resume` takes one up again, and locks it.

        Raises:
            RunDirError: The folder holds files already, is no run to resume, is in use by another
                process, or cannot be written.
        """
        path = Path(path)
        try:
            if resume:
                _refuse_no_run(path)
            else:
                _refuse_files(path)
            made = tuple(folder for folder in (path, *path.parents) if not folder.exists())
            path.mkdir(parents=True, exist_ok=True)
            lock = filelock.FileLock(path / ".lock", timeout=0)
            lock.acquire()
        except filelock.Timeout as error:
            raise RunDirError(f"{path} is in use by another process. Wait, or pass another --out.") from error
        except OSError as error:
            raise cannot_write(path, error) from error
        run = cls(path, lock=lock)
        try:
            if not resume:
                _refuse_files(path)  # again, now that nobody else can write
        except BaseException:
            lock.release()
            raise
        run._made, run._fresh = made, not resume
        return run

    @classmethod
    def open(cls, path: Path | str) -> RunDir:
        """A run to read from, not locked; raises RunDirError where there is none."""
        path = Path(path)
        try:
            _refuse_no_run(path)
        except OSError as error:
            raise RunDirError(f"{path} cannot be read: {error.strerror or error}.") from error
        return cls(path)

    def __enter__(self) -> RunDir:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the study and releases the lock; may be called twice."""
        try:
            self.close_study()
        finally:
            if self._lock is not None:
                self._lock.release()

    def discard(self) -> None:
        """Takes back a fresh directory in which nothing was measured; otherwise leaves all as it is.

        Removes only what a run writes, then the folders that `create` made and that are empty.
        """
        if not self._fresh or self.load_measurements():
            return
        self.close_study()
        with suppress(OSError):  # the caller is busy with the error that matters
            for name in _EARLY_FILES:
                target = self.path / name
                if target.is_dir():
                    shutil.rmtree(target)
                else:
                    target.unlink(missing_ok=True)
        self.close()
        with suppress(OSError):  # not empty: somebody else's file is in there
            for folder in self._made:
                folder.rmdir()

    @property
    def best(self) -> Path:
        """Folder of the best plan, its adapters and weights."""
        return self.path / "best"

    @property
    def state(self) -> Path:
        """Folder of what `--resume` needs."""
        return self.path / "state"

    def weights(self, plan: Plan, seed: int) -> Path:
        """Folder for the adapter that a plan gives with a seed."""
        return self.state / "weights" / f"{plan.digest}-{seed}"

    def paused(self, plan: Plan, seed: int) -> Path:
        """Folder for the state of a plan's rungs with a seed: what a next rung takes up."""
        return self.state / "paused" / f"{plan.digest}-{seed}"

    def forget_paused(self, plans: Iterable[Plan]) -> None:
        """Remove the paused state of plans that no rung takes up again."""
        for plan in plans:
            for folder in (self.state / "paused").glob(f"*{plan.digest}-*"):
                shutil.rmtree(folder, ignore_errors=True)

    def write_spec(self, spec: RunSpec) -> None:
        """Writes `run.yaml`: the resolved settings, all but where the output goes."""
        content = to_json(spec)
        del content["output"]
        write_text(
            self.path / "run.yaml", _SPEC_HEADER.format(repeat=repeat_words(spec)) + write_yaml_text(content)
        )

    def read_spec(self) -> RunSpec:
        """The settings in `run.yaml`; raises SpecError where they cannot be read."""
        path = self.path / "run.yaml"
        return validate(RunSpec, read_yaml(path), source=str(path))

    @property
    def _log_path(self) -> Path:
        return self.state / "measurements.jsonl"

    def append_measurement(self, measurement: Measurement) -> None:
        """Adds a measurement to the log; it is on the disk when this returns."""
        content = to_json(measurement)
        line = json.dumps({"sha256": digest_of(content), "measurement": content}) + "\n"
        try:
            self.state.mkdir(exist_ok=True)
            if not self._tail_is_whole:
                self._cut_torn_tail()
            self._tail_is_whole = False  # until the line is out: a full disk leaves half of it
            with self._log_path.open("ab") as stream:
                stream.write(line.encode())
                stream.flush()
                os.fsync(stream.fileno())
            self._tail_is_whole = True
        except OSError as error:
            raise cannot_write(self._log_path, error) from error

    def load_measurements(self) -> dict[str, Measurement]:
        """All measurements in the log by `measurement_key`; damaged lines are skipped with a warning."""
        found = {}
        for number, (_, measurement) in enumerate(self._lines(), start=1):
            if measurement is None:
                _log.warning("%s, line %d is damaged; it will be measured again.", self._log_path, number)
            else:
                found[measurement_key(measurement.plan, measurement.fidelity)] = measurement
        return found

    def _lines(self) -> Iterator[tuple[bytes, Measurement | None]]:
        try:
            content = self._log_path.read_bytes()
        except FileNotFoundError:
            return
        except OSError as error:
            raise RunDirError(f"{self._log_path} cannot be read: {error.strerror or error}.") from error
        for line in io.BytesIO(content):
            yield line, _measurement_in(line)

    def _cut_torn_tail(self) -> None:
        # What is appended to half a line would be lost with it.
        lines = list(self._lines())
        if lines and lines[-1][1] is None:
            os.truncate(self._log_path, sum(len(line) for line, _ in lines[:-1]))

    def study_storage(self, *, fresh: bool = False) -> RDBStorage:
        """Optuna's storage in `study.sqlite`, the same object until `close_study`.

        Args:
            fresh: Remove the file of an earlier study first.

        Raises:
            RunDirError: The file is no study, or cannot be written.
        """
        if fresh:
            self.close_study()
            for name in _STUDY_FILES:
                (self.path / name).unlink(missing_ok=True)
        if self._storage is None:
            self._storage = _open_study(self.path / "study.sqlite")
        return self._storage

    def close_study(self) -> None:
        """Closes the study so that `study.sqlite` alone holds it, with no files beside it."""
        if self._storage is None:
            return
        self._storage.remove_session()
        self._storage.engine.dispose()
        self._storage = None
        # Leaving WAL writes the log back into the file and removes -wal and -shm.
        _connect(self.path / "study.sqlite", journal_mode="DELETE").close()

    def save_result(self, result: SearchResult) -> None:
        """Writes the result for `load_result`, without the scores of single examples of its measurements."""
        small = tuple(replace(measurement, example_scores=()) for measurement in result.measurements)
        write_text(self._result_path, json.dumps(to_json(replace(result, measurements=small))))

    def load_result(self) -> SearchResult:
        """The result of a finished run; raises RunDirError where it has not finished."""
        try:
            return from_json(SearchResult, json.loads(self._result_path.read_bytes()))
        except FileNotFoundError as error:
            raise RunDirError(
                f"{self.path} has no result: the run has not finished; go on with "
                f"`{resume_words(self.read_spec(), self.path)}`."
            ) from error
        except (OSError, ValueError) as error:
            raise RunDirError(f"{self._result_path} cannot be read; remove it and resume the run.") from error

    @property
    def _result_path(self) -> Path:
        return self.state / "search_result.json"


def _refuse_no_run(path: Path) -> None:
    if not (path / "run.yaml").is_file():
        raise RunDirError(f"{path} is not the folder of a run: it has no run.yaml. Pass what --out was.")


def _refuse_files(path: Path) -> None:
    if path.is_dir() and any(entry.name != ".lock" for entry in path.iterdir()):
        raise RunDirError(
            f"{path} already holds files. Pass --resume to go on with that run, or another --out."
        )


def _measurement_in(line: bytes) -> Measurement | None:
    if not line.endswith(b"\n"):
        return None
    try:
        content: Any = json.loads(line)
        if content["sha256"] != digest_of(content["measurement"]):
            return None
        return from_json(Measurement, content["measurement"])
    except (ValueError, KeyError, TypeError, ValidationError):
        return None


def _open_study(path: Path) -> RDBStorage:
    # Half a second to import, and `autopeft count` reads plans without it.
    from optuna.exceptions import OptunaError
    from optuna.storages import RDBStorage
    from sqlalchemy.exc import SQLAlchemyError

    try:
        # With `creator` the URL only names the dialect, so that a path may hold `?`.
        options = {"creator": lambda: _connect(path, journal_mode="WAL")}
        return RDBStorage("sqlite:///study.sqlite", engine_kwargs=options)
    except (sqlite3.Error, SQLAlchemyError, OptunaError) as error:
        reason = str(error).splitlines()[0]
        raise RunDirError(
            f"{path} cannot be opened as an Optuna study: {reason}. Pass another --out."
        ) from error


def _connect(path: Path, *, journal_mode: str) -> sqlite3.Connection:
    # 25 times faster on `ask` than the defaults; power loss may cost the last commits, not the file.
    connection = sqlite3.connect(path, timeout=_SQLITE_TIMEOUT_SECONDS, check_same_thread=False)
    connection.execute(f"PRAGMA journal_mode={journal_mode}")
    connection.execute("PRAGMA synchronous=NORMAL")
    return connection

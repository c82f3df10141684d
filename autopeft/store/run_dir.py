"""The run directory: one process at a time, every file whole."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import filelock

from autopeft.errors import RunDirError, SpecError
from autopeft.store.files import (
    cannot_write,
    read_object,
    read_record,
    refuse_files,
    write_record,
    write_text,
)
from autopeft.store.plan import read_plan_file
from autopeft.store.yaml import read_yaml, validate, write_yaml_text
from autopeft.types import (
    Fidelity,
    Measurement,
    Plan,
    PlanDocument,
    RunSpec,
    SearchResult,
    digest_of,
    from_json,
    repeat_command,
    resume_command,
    to_json,
)

# In `state/`: what a run depends on (see `run.state`). It is written before run.yaml, whose presence makes a
# folder a run.
STATE = "state.json"
SO_FAR = "so_far.json"  # what `report` needs next to the measurements as long as there is no result
TRAINING = "training.json"  # next to trained weights: how they were trained, and on which base model
_LOG = "measurements.jsonl"
# Everything that a run writes before the sensitivity is measured.
_EARLY_FILES = ("run.yaml", "state", ".lock")
# The names that `files.write_text` and `train.pausing.write` give to what they are writing.
_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{8}\.tmp")
# What git and macOS keep in a folder that people call empty.
_OF_EMPTY_FOLDERS = frozenset({".gitkeep", ".gitignore", ".DS_Store"})

log = logging.getLogger(__name__)


class RunDir:
    """A run directory; a context manager that holds its lock.

    `RunDir.create` takes the lock and may write; `RunDir.open` only reads.

    Attributes:
        best: Folder of the best plan with its adapters and weights.
        half_best: Folder in which the best plan is written; renamed to `best` once it is whole.
        state: Folder of the files that `--resume` needs.
        measurements: The log of all finished measurements.
    """

    def __init__(self, path: Path, *, lock: filelock.BaseFileLock | None = None) -> None:
        """Use `create` or `open`."""
        self.path, self.best, self.state = path, path / "best", path / "state"
        self.half_best = path / "best.new"
        self.measurements = MeasurementLog(self.state / _LOG)
        self._result_path = self.state / "search_result.json"
        self._lock = lock
        self._made: tuple[Path, ...] = ()
        self._fresh = False

    @classmethod
    def create(cls, path: Path | str, *, resume: bool) -> RunDir:
        """Create a run directory, or with `resume` open an existing one, locked for this process.

        Raises:
            RunDirError: The folder holds files already, is not a run to resume, is in use by another process,
                or cannot be written.
        """
        path = Path(path)
        try:
            _require_run(path) if resume else _refuse_used_folder(path)
            made = tuple(folder for folder in (path, *path.parents) if not folder.exists())
            path.mkdir(parents=True, exist_ok=True)
            lock = filelock.FileLock(path / ".lock", timeout=0)
            lock.acquire()
        except filelock.Timeout as error:
            raise RunDirError(f"{path} is in use by another process. Wait, or pass another --out.") from error
        except OSError as error:
            raise cannot_write(path, error) from error
        run = cls(path, lock=lock)
        run._made, run._fresh = made, not resume
        try:
            if not resume:
                _refuse_used_folder(path)  # again, now that nobody else can write
                shutil.rmtree(run.state, ignore_errors=True)
            for leftover in [entry for entry in path.rglob(".*.tmp") if _is_temporary(entry)]:
                if leftover.is_dir():
                    shutil.rmtree(leftover, ignore_errors=True)
                else:
                    leftover.unlink(missing_ok=True)
            shutil.rmtree(run.half_best, ignore_errors=True)
        except BaseException:
            lock.release()
            raise
        return run

    @staticmethod
    def check(path: Path | str) -> None:
        """Raise RunDirError if `create` would refuse a fresh run directory; nothing is written."""
        path = Path(path)
        _refuse_used_folder(path)
        if not path.is_dir():
            refuse_files(path)  # which also checks that the folder can be created

    @classmethod
    def open(cls, path: Path | str) -> RunDir:
        """Open an existing run for reading, without its lock; raises RunDirError if it is not a run."""
        path = Path(path)
        _require_run(path)
        return cls(path)

    def __enter__(self) -> RunDir:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the lock; may be called twice."""
        if self._lock is not None:
            self._lock.release()

    def discard(self) -> None:
        """Remove a fresh directory in which nothing is measured; keep a resumed run or one that has begun.

        Only files of a run are removed, then the folders that `create` made if they are empty.
        """
        if not self._fresh or self.is_begun:
            return
        with suppress(OSError):  # the caller handles the error that matters
            for name in _EARLY_FILES:
                target = self.path / name
                shutil.rmtree(target) if target.is_dir() else target.unlink(missing_ok=True)
        self.close()
        with suppress(OSError):  # a folder with somebody else's file is not empty
            for folder in self._made:
                folder.rmdir()

    def weights(self, plan: Plan, seed: int) -> Path:
        """Return the folder for the trained weights of a plan and a seed."""
        return self.state / "weights" / f"{plan.digest}-{seed}"

    def refit(self, plan: Plan, seed: int) -> Path:
        """Return the folder for the weights of a plan that was trained on all rows."""
        return self.state / "weights" / f"{plan.digest}-{seed}-all-rows"

    @property
    def has_refit(self) -> bool:
        """Whether `best/weights` was trained on all rows; `best/judged` is the judged adapter then."""
        return (self.best / "judged").is_dir()

    def under_way(self, plan: Plan, fidelity: Fidelity) -> Path:
        """Return the folder for the state of an unfinished training, which a resumed run continues."""
        name = f"{plan.digest}-{fidelity.split}-{fidelity.train_steps}-{fidelity.seed}"
        return self.state / "under_way" / name

    def curve(self, plan: Plan, fidelity: Fidelity) -> Path:
        """Return the file with the losses of a training, a line of JSON for every ten steps."""
        name = f"{plan.digest}-{fidelity.split}-{fidelity.seed}.jsonl"
        return self.path / "curves" / name

    def forget_under_way(self, failed: Iterable[Measurement]) -> None:
        """Remove the states of unfinished trainings, except those that failed, which `--resume` continues."""
        kept = [self.under_way(measurement.plan, measurement.fidelity) for measurement in failed]
        for folder in (self.state / "under_way").glob("*"):
            if folder not in kept:
                shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):  # the folder is missing, or keeps a state
            (self.state / "under_way").rmdir()

    def write_spec(self, spec: RunSpec) -> None:
        """Write `run.yaml`: all resolved settings but `output.out`."""
        content = to_json(spec)
        del content["output"]["out"]
        if not spec.output.report_to:
            del content["output"]
        header = (
            "# The settings of this run, as resolved from defaults, file, environment and flags.\n"
            f"# Repeat it elsewhere: {repeat_command(spec)}\n"
        )
        write_text(self.path / "run.yaml", header + write_yaml_text(content))

    def read_spec(self) -> RunSpec:
        """Read the settings in `run.yaml`; raises SpecError for keys or values that no settings have."""
        path = self.path / "run.yaml"
        return validate(RunSpec, read_yaml(path), source=str(path))

    def save_result(self, result: SearchResult) -> None:
        """Write the result for `load_result`, without the measurements' scores of single examples."""
        small = tuple(replace(measurement, example_scores=()) for measurement in result.measurements)
        write_record(self._result_path, replace(result, measurements=small))

    @property
    def is_begun(self) -> bool:
        """Whether the sensitivity or a plan is measured: from then on the settings must stay."""
        has_scores = read_object(self.state / STATE).get("scores") is not None
        return has_scores or bool(self.measurements.load())

    @property
    def is_finished(self) -> bool:
        """Whether the run has a result and a best plan."""
        return self._result_path.is_file() and self.best.is_dir()

    @property
    def has_page_so_far(self) -> bool:
        """Whether a report can be made of an unfinished run, which may be running or was stopped."""
        return (self.state / SO_FAR).is_file() and not self.is_finished

    def load_result(self) -> SearchResult:
        """Read the result of a finished run.

        Raises:
            RunDirError: The run has not finished, or its result is damaged or of another version.
        """
        command = resume_command(self.read_spec(), self.path)
        try:
            return read_record(self._result_path, SearchResult, remedy=f"write it again with `{command}`")
        except FileNotFoundError as error:
            raise RunDirError(
                f"{self.path} has no result: the run has not finished; resume it with `{command}`."
            ) from error


def read_plan(path: Path | str) -> PlanDocument:
    """Read a plan from a file, or a folder that holds `plan.yaml` or `best/plan.yaml` (a run directory).

    Raises:
        UnknownNameError: The file has a key that no plan has.
        SpecError: There is no such file, it has another schema version, values are missing or not allowed, or
            two adapters have the same target module.
    """
    path = Path(path)
    if not path.is_dir():
        return read_plan_file(path)
    candidates = (path / "plan.yaml", path / "best" / "plan.yaml")
    file = next((candidate for candidate in candidates if candidate.is_file()), None)
    if file is None:
        raise SpecError(
            f"{path} holds neither plan.yaml nor best/plan.yaml; pass a plan or the folder of a finished run."
        )
    return read_plan_file(file)


def is_run(path: Path) -> bool:
    """Whether a folder is that of a run."""
    return (path / "run.yaml").is_file()


def _require_run(path: Path) -> None:
    """Raise RunDirError if a folder is not a run: it has no run.yaml."""
    if not is_run(path):
        is_new = path.is_dir() and _is_unused(path)
        remedy = "Start it without --resume" if is_new else "Pass the --out of the run"
        raise RunDirError(f"{path} is not the folder of a run: it has no run.yaml. {remedy}.")


def _refuse_used_folder(path: Path) -> None:
    """Raise RunDirError if a new run cannot use a path: a file, or a folder with files."""
    if path.exists() and not path.is_dir():
        raise RunDirError(f"{path} is a file, and a run needs a folder; pass another --out.")
    if path.is_dir() and not _is_unused(path):
        remedy = "--resume to continue that run, or another" if is_run(path) else "another"
        raise RunDirError(f"{path} already holds files. Pass {remedy} --out.")


def _is_unused(path: Path) -> bool:
    """Whether a folder is empty but for files of git or macOS, and of a run killed before its run.yaml."""
    names = {entry.name for entry in path.iterdir() if not _is_temporary(entry)} - _OF_EMPTY_FOLDERS
    return names <= {".lock", "state"} and not (path / "state" / _LOG).exists()


def _is_temporary(path: Path) -> bool:
    return _TEMPORARY.fullmatch(path.name) is not None


class LogEntry(NamedTuple):
    """A measurement, and the digest of the file of the user's own metric that scored it, if any."""

    measurement: Measurement
    metric_file: str | None


class MeasurementLog:
    """A JSON Lines file of measurements; a crash while a line is written loses that line alone."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def append(self, measurement: Measurement, *, metric_file: str | None = None) -> None:
        """Add a measurement; it is on the disk when this returns.

        An unfinished last line is removed first. Raises RunDirError if the file cannot be written.
        """
        content: dict[str, Any] = {"measurement": to_json(measurement)}
        if metric_file is not None:
            content["metric_file"] = metric_file
        line = json.dumps({"sha256": digest_of(content), **content}) + "\n"
        try:
            self._path.parent.mkdir(exist_ok=True)
            with self._path.open("a+b") as stream:
                stream.seek(max(0, stream.tell() - 1))
                if stream.read(1) not in (b"", b"\n"):
                    stream.seek(0)
                    stream.truncate(stream.read().rfind(b"\n") + 1)
                stream.write(line.encode())
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            raise cannot_write(self._path, error) from error

    def load_repeated(self) -> tuple[Measurement, ...]:
        """Load all measurements in order, also several of the same plan and fidelity; skip damaged lines."""
        return tuple(entry.measurement for entry in self._entries() if entry is not None)

    def load(self) -> tuple[Measurement, ...]:
        """Load the last measurement of each plan and fidelity; damaged lines are skipped with a warning."""
        return tuple(entry.measurement for entry in self.load_entries())

    def load_entries(self) -> tuple[LogEntry, ...]:
        """As `load`, with the metric's file."""
        last = {}
        for number, entry in enumerate(self._entries(), start=1):
            if entry is None:
                log.warning("%s, line %d is damaged; it will be measured again.", self._path, number)
            else:
                last[entry.measurement.plan, entry.measurement.fidelity] = entry
        return tuple(last.values())

    def _entries(self) -> Iterator[LogEntry | None]:
        """Yield the entry of each line; None if the line is unfinished or damaged."""
        try:
            lines = self._path.read_bytes().splitlines(keepends=True)
        except FileNotFoundError:
            return
        except OSError as error:
            raise RunDirError(f"{self._path} cannot be read: {error.strerror or error}.") from error
        for line in lines:
            try:
                content = json.loads(line if line.endswith(b"\n") else b"")
                is_whole = content.pop("sha256") == digest_of(content)
                measurement = from_json(Measurement, content["measurement"])
            except (ValueError, KeyError, TypeError, AttributeError):
                is_whole = False
            yield LogEntry(measurement, content.get("metric_file")) if is_whole else None

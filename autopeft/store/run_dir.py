"""The run directory: one process at a time, every file whole."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

import filelock
from packaging.version import InvalidVersion, Version
from pydantic import ValidationError

from autopeft.errors import RunDirError, SpecError, reason_of
from autopeft.store.checksums import TRAINING, damaged, read_checked, write_checked
from autopeft.store.files import as_path, cannot_write, read_object, refuse_files, write_text
from autopeft.store.plan import read_plan_file
from autopeft.store.yaml import read_yaml, validate, write_yaml_text
from autopeft.types import (
    SETTINGS,
    VERSION,
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

# Everything that a run writes before the sensitivity is measured.
_EARLY_FILES = ("run.yaml", "state", ".lock")
# The names that `files.write_text` and `train.pausing.write` give to what they are writing.
_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{8}\.tmp")
# In `state/`: what a run depends on, with the version of autopeft (see `run.state`). It is written before
# run.yaml, whose presence makes a folder a run.
STATE = "state.json"
SO_FAR = "so_far.json"  # what `report` needs besides the measurements as long as there is no result
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
        self.measurements = MeasurementLog(self.state / "measurements.jsonl")
        self._result_path = self.state / "search_result.json"
        self._lock = lock
        self._made: tuple[Path, ...] = ()
        self._fresh = False

    @classmethod
    def create(cls, path: Path | str, *, resume: bool) -> RunDir:
        """Make a run directory, or with `resume` take an existing one, locked for this process.

        Raises:
            RunDirError: The folder holds files already, is no run to resume, is in use by another
                process, holds links, or cannot be written.
        """
        path = Path(path)
        try:
            _require_run(path) if resume else _refuse_used_folder(path)
            _refuse_links(path)
            _refuse_hard_links(path)
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
        try:
            _refuse_used_folder(path)
            _refuse_links(path)
            if not path.is_dir():
                refuse_files(path)  # which also checks that the folder can be made
        except OSError as error:
            raise cannot_write(path, error) from error

    @classmethod
    def open(cls, path: Path | str) -> RunDir:
        """Open an existing run for reading, without its lock; RunDirError if it is none, or holds a link."""
        path = as_path(path)
        try:
            _require_run(path)
            _refuse_links(path)
        except OSError as error:
            raise RunDirError(f"{path} cannot be read: {error.strerror or error}.") from error
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
        """Remove a fresh directory in which nothing is measured; leave a resumed run or one that has begun.

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
        """Name the folder for the trained weights of a plan and a seed."""
        return self.state / "weights" / f"{plan.digest}-{seed}"

    def refit(self, plan: Plan, seed: int) -> Path:
        """Name the folder for the weights of a plan that was trained on all rows."""
        return self.state / "weights" / f"{plan.digest}-{seed}-all-rows"

    @property
    def has_refit(self) -> bool:
        """Whether `best/weights` was trained on all rows; `best/judged` is the one that was judged then."""
        return (self.best / "judged").is_dir()

    def under_way(self, plan: Plan, fidelity: Fidelity) -> Path:
        """Name the folder for the state of an unfinished training, from which a resumed run goes on."""
        name = f"{plan.digest}-{fidelity.split}-{fidelity.train_steps}-{fidelity.seed}"
        return self.state / "under_way" / name

    def forget_under_way(self, failed: Iterable[Measurement]) -> None:
        """Remove the states of unfinished trainings but those that failed, with which `--resume` goes on."""
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
        """Read the settings in `run.yaml`; raises SpecError, or RunDirError if another version wrote it."""
        path = self.path / "run.yaml"
        try:
            return validate(RunSpec, read_yaml(path), source=str(path))
        except SpecError as error:
            if self.is_of_other_version:
                raise self._version_error(reason_of(error)) from error
            raise

    @property
    def version(self) -> str | None:
        """The version of autopeft that began the run; None if the folder does not tell."""
        try:
            version = read_object(self.state / STATE)["content"]["start"]["autopeft"]
        except (AttributeError, KeyError, TypeError):
            return None
        return version if isinstance(version, str) else None

    def require_own_version(self) -> None:
        """Raise RunDirError if another version of autopeft began the run: its losses cannot be compared."""
        if self.is_of_other_version:
            raise RunDirError(
                f"{self.path} was measured by autopeft {self.version}, and this is {VERSION}; losses of two "
                "versions cannot be compared. Go on with the other version, or repeat the search from the "
                "run's run.yaml with another --out."
            )

    @property
    def is_of_other_version(self) -> bool:
        """Whether another version of autopeft began the run."""
        return self.version not in (None, VERSION)

    def _version_error(self, reason: str) -> RunDirError:
        return RunDirError(
            f"{self.path} is a run of autopeft {self.version}, which this autopeft {VERSION} cannot read: "
            f"{reason}. Open it with that version, or use its best/plan.yaml alone."
        )

    def save_result(self, result: SearchResult) -> None:
        """Write the result for `load_result`, without the measurements' scores of single examples."""
        small = tuple(replace(measurement, example_scores=()) for measurement in result.measurements)
        write_checked(self._result_path, to_json(replace(result, measurements=small)))

    @property
    def is_begun(self) -> bool:
        """Whether the sensitivity is measured, or a plan: from then on the settings must stay."""
        content = read_object(self.state / STATE).get("content")
        is_scored = isinstance(content, dict) and content.get("scores") is not None
        return is_scored or bool(self.measurements.load())

    @property
    def is_finished(self) -> bool:
        """Whether there are a result and a best plan."""
        return self._result_path.is_file() and self.best.is_dir()

    @property
    def has_page_so_far(self) -> bool:
        """Whether a report can be made though there is no result: the run still goes on, or was stopped."""
        return (self.state / SO_FAR).is_file() and not self.is_finished

    def load_result(self) -> SearchResult:
        """Read the result of a finished run.

        Raises:
            RunDirError: The run has not finished, is damaged, or is of a version that cannot be read. A newer
                version is refused, since its result may have parts that this version would leave out. Also if
                run.yaml has other settings, or `best` holds weights of another run.
        """
        version = self.version
        with suppress(InvalidVersion):  # somebody edited it
            if version is not None and Version(version) > Version(VERSION):
                raise self._version_error("that is a newer version")
        spec = self.read_spec()
        remedy = f"make it anew with `{resume_command(spec, self.path)}`"
        try:
            content = read_checked(self._result_path, remedy=remedy)
            result = from_json(SearchResult, content)
        except FileNotFoundError as error:
            if not self.state.is_dir() and (self.best / "plan.yaml").is_file():
                raise RunDirError(
                    f"{self.state} is gone, and with it the result of the run; `export` and `verify` "
                    f"still take {self.best / 'weights'}, and `train` takes {self.best / 'plan.yaml'}."
                ) from error
            self.require_own_version()  # or the advice to go on would be refused
            raise RunDirError(
                f"{self.path} has no result: the run has not finished; go on with "
                f"`{resume_command(self.read_spec(), self.path)}`."
            ) from error
        except ValidationError as error:
            if self.is_of_other_version:
                raise self._version_error(f"{self._result_path.name} has other keys or values") from error
            raise damaged(self._result_path, remedy=remedy) from error
        self._require_one_run(spec, result)
        return result

    def _require_one_run(self, spec: RunSpec, result: SearchResult) -> None:
        """Raise RunDirError if run.yaml or the finished weights are not of the run of the result."""
        for name in SETTINGS:
            written, noted = (attrgetter(name)(each) for each in (spec, result.spec))
            if written != noted and not name.startswith("output."):
                raise RunDirError(
                    f"{self.path / 'run.yaml'} has {name} {written}, and the result in {self.state} has "
                    f"{noted}: one was edited or is of another run; put it back."
                )
        weights = self.best / "weights"
        trained = read_object(weights / TRAINING)  # without a plan in autopeft 0.2.0 and of other trainers
        measured = {(m.plan.digest, m.fidelity.seed, m.metric, m.loss) for m in result.measurements}
        if result.refit is not None:
            m = result.refit.measurement
            measured.add((m.plan.digest, m.fidelity.seed, m.metric, m.loss))
        about = tuple(trained.get(key) for key in ("plan_id", "seed", "metric", "loss"))
        if about[0] is not None and about not in measured:
            raise RunDirError(
                f"{weights} holds weights of another run: {self.state} has no full run of plan {about[0]} "
                f"with seed {about[1]} and their score; put best and state back as they were."
            )


def read_plan(path: Path | str) -> PlanDocument:
    """Read a plan from a file, or a folder that holds `plan.yaml` or `best/plan.yaml` (a run directory).

    Raises:
        UnknownNameError: The file has a key that no plan has.
        SpecError: No such file, another schema version, missing or bad values, or a target module named
            twice.
        RunDirError: The plan in a run directory was edited or is of another run.
    """
    path = as_path(path)
    if not path.is_dir():
        return read_plan_file(path)
    candidates = (path / "plan.yaml", path / "best" / "plan.yaml")
    file = next((candidate for candidate in candidates if candidate.is_file()), None)
    if file is None:
        raise SpecError(
            f"{path} holds neither plan.yaml nor best/plan.yaml; pass a plan or the folder of a finished run."
        )
    run, copy, document = RunDir(path), path / "plans" / "best.yaml", read_plan_file(file)
    if run.is_finished and not run.is_of_other_version:
        run.load_result()  # raises if its parts are not of one run
    trained = read_object(path / TRAINING).get("plan_id", document.plan.digest)
    is_copied = not (run.is_finished and copy.is_file()) or copy.read_bytes() == file.read_bytes()
    if trained != document.plan.digest or not is_copied:
        raise RunDirError(
            f"{file} was edited or is of another run; put it back, or pass the file itself to use it."
        )
    return document


def is_run(path: Path) -> bool:
    """Whether a folder is that of a run."""
    return (path / "run.yaml").is_file()


def _require_run(path: Path) -> None:
    """Raise RunDirError if a folder is no run: it has no run.yaml."""
    if not is_run(path):
        if path.is_dir() and _is_unused(path):
            remedy = "Start it without --resume"
        elif (path / "state" / STATE).is_file():
            remedy = "It was removed: put it back, or start anew with another --out"
        else:
            remedy = "Pass what --out was"
        raise RunDirError(f"{path} is not the folder of a run: it has no run.yaml. {remedy}.")


def _refuse_used_folder(path: Path) -> None:
    """Raise RunDirError if a new run cannot take a path: a file, a broken link, or a folder with files."""
    if path.is_symlink() and not path.exists():
        raise RunDirError(f"{path} is a link to {path.readlink()}, which does not exist; pass another --out.")
    if path.exists() and not path.is_dir():
        raise RunDirError(f"{path} is a file, and a run needs a folder; pass another --out.")
    if path.is_dir() and not _is_unused(path):
        remedy = "--resume to go on with that run, or another" if is_run(path) else "another"
        raise RunDirError(f"{path} already holds files. Pass {remedy} --out.")


def _is_unused(path: Path) -> bool:
    """Whether a folder is empty but for files of git or macOS, and of a run killed before its run.yaml."""
    names = {entry.name for entry in path.iterdir() if not _is_temporary(entry)} - _OF_EMPTY_FOLDERS
    if not names <= {".lock", "state"}:
        return False
    state = path / "state"
    if state.is_symlink() or not state.is_dir():
        return "state" not in names
    return {entry.name for entry in state.iterdir() if not _is_temporary(entry)} <= {STATE}


def _is_temporary(path: Path) -> bool:
    return _TEMPORARY.fullmatch(path.name) is not None


def _refuse_links(path: Path) -> None:
    """Raise RunDirError if a run directory holds anything but files and folders.

    Writing through a link would change files elsewhere, and reading a pipe would wait for ever.
    """
    for entry, status in _walk(path):
        if stat.S_ISLNK(status.st_mode):
            raise RunDirError(
                f"{entry} is a link; a run directory holds none, replace it by what it links to."
            )
        if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
            raise RunDirError(f"{entry} is neither file nor folder, as a run directory holds; remove it.")


def _refuse_hard_links(path: Path) -> None:
    """Raise RunDirError for a file with a second name: writing it would change that one too."""
    for entry, status in _walk(path):
        if stat.S_ISREG(status.st_mode) and status.st_nlink > 1:
            raise RunDirError(
                f"{entry} is a file with {status.st_nlink} names (hard links), of which the others would "
                "change too; replace it by a copy."
            )


def _walk(path: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Yield every path below a folder with its status; links are not followed."""
    for folder, sub_folders, files in os.walk(path):
        for name in (*sub_folders, *files):
            with suppress(FileNotFoundError):  # a run that is going on has removed it
                yield Path(folder) / name, (Path(folder) / name).lstat()


class SealedMeasurement(NamedTuple):
    """A measurement, the seal of its kept weights (`checksums.seal_of`), and a digest of its run's start."""

    measurement: Measurement
    weights: str | None
    start: str | None


class MeasurementLog:
    """A JSON Lines file of measurements; a crash while a line is written loses that line alone."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._ends_with_whole_line = False

    def append(self, measurement: Measurement, **seals: str | None) -> None:
        """Add a measurement and the `weights` and `start` of its seals; it is on the disk when this returns.

        An unfinished last line is removed first. Raises RunDirError if the file cannot be written.
        """
        noted = {name: seal for name, seal in seals.items() if seal is not None}
        content: dict[str, Any] = {"measurement": to_json(measurement), **noted}
        line = json.dumps({"sha256": _digest_of(content), **content}) + "\n"
        try:
            self._path.parent.mkdir(exist_ok=True)
            if not self._ends_with_whole_line:
                lines = list(self._lines())
                if lines and lines[-1][1] is None:  # half a line; the new one would become part of it
                    os.truncate(self._path, sum(len(whole) for whole, _ in lines[:-1]))
            self._ends_with_whole_line = False  # while writing: a full disk leaves half a line
            with self._path.open("ab") as stream:
                stream.write(line.encode())
                stream.flush()
                os.fsync(stream.fileno())
            self._ends_with_whole_line = True
        except OSError as error:
            raise cannot_write(self._path, error) from error

    def load_repeated(self) -> tuple[Measurement, ...]:
        """Load all measurements in order, also several of the same plan and fidelity; skip damaged lines."""
        return tuple(sealed.measurement for _, sealed in self._lines() if sealed is not None)

    def load(self) -> tuple[Measurement, ...]:
        """Load the last measurement of each plan and fidelity; damaged lines are skipped with a warning."""
        return tuple(sealed.measurement for sealed in self.load_sealed())

    def load_sealed(self) -> tuple[SealedMeasurement, ...]:
        """As `load`, each measurement with its seal."""
        last = {}
        for number, (_, sealed) in enumerate(self._lines(), start=1):
            if sealed is None:
                log.warning("%s, line %d is damaged; it will be measured again.", self._path, number)
            else:
                last[sealed.measurement.plan, sealed.measurement.fidelity] = sealed
        return tuple(last.values())

    def _lines(self) -> Iterator[tuple[bytes, SealedMeasurement | None]]:
        """Yield each line of the file with its measurement; None if the line is unfinished or damaged."""
        try:
            lines = self._path.read_bytes().splitlines(keepends=True)
        except FileNotFoundError:
            return
        except OSError as error:
            raise RunDirError(f"{self._path} cannot be read: {error.strerror or error}.") from error
        for line in lines:
            try:
                content = json.loads(line) if line.endswith(b"\n") else {}
                is_whole = content.pop("sha256") == _digest_of(content)
                measurement = from_json(Measurement, content["measurement"])
                sealed = SealedMeasurement(measurement, content.get("weights"), content.get("start"))
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError, ValidationError):
                is_whole = False
            yield line, sealed if is_whole else None


def _digest_of(content: dict[str, Any]) -> str:
    """Digest a line's content; without a seal only its measurement."""
    return digest_of(content if len(content) > 1 else content["measurement"])

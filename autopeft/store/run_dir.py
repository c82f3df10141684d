"""The run directory: one process at a time, every file whole."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import filelock

from autopeft.errors import RunDirError, SpecError
from autopeft.store.files import (
    LOCK,
    cannot_write,
    locked_folder,
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

STATE = "state.json"  # in `state/`: what a run depends on, see `store.state`
TRAINING = "training.json"  # next to trained weights: how they were trained, and on which base model

log = logging.getLogger(__name__)


class RunDir:
    """A run directory; a context manager that holds its lock.

    `RunDir.create` takes the lock and may write; `RunDir.open` only reads.

    Attributes:
        best: Folder of the best plan with its adapters and weights.
        state: Folder of the files that `--resume` needs.
        measurements: The log of all finished measurements.
    """

    def __init__(self, path: Path, *, lock: filelock.BaseFileLock | None = None) -> None:
        """Use `create` or `open`."""
        self.path, self.best, self.state = path, path / "best", path / "state"
        self.measurements = MeasurementLog(self.state / "measurements.jsonl")
        self._result_path = self.state / "search_result.json"
        self._lock = lock

    @classmethod
    def create(cls, path: Path | str, *, resume: bool) -> RunDir:
        """Create a run directory, or with `resume` open an existing one, locked for this process.

        Raises:
            RunDirError: The folder holds files already, is not a run to resume, is in use by another process,
                or cannot be written.
        """
        path = Path(path)
        require = _require_run if resume else cls.check
        require(path)
        lock = locked_folder(path)
        for leftover in list(path.rglob(".*.tmp")):  # of a process that was killed
            if leftover.is_dir():
                shutil.rmtree(leftover, ignore_errors=True)
            else:
                leftover.unlink(missing_ok=True)
        return cls(path, lock=lock)

    @staticmethod
    def check(path: Path | str) -> None:
        """Raise RunDirError if `create` would refuse a fresh run directory; nothing is written."""
        path = Path(path)
        if is_run(path):
            raise RunDirError(f"{path} holds a run. Pass --resume to continue it, or another --out.")
        # A run that was killed before anything was measured leaves its lock, and maybe a half-written file.
        is_unused = path.is_dir() and all(
            entry.name == LOCK or entry.suffix == ".tmp" for entry in path.iterdir()
        )
        if not is_unused:
            refuse_files(path)

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
        """Release the lock, and remove the folder if it is not that of a run yet and holds nothing else."""
        self.close()
        if not is_run(self.path):
            with suppress(OSError):  # the folder holds somebody else's file
                (self.path / LOCK).unlink(missing_ok=True)
                self.path.rmdir()

    def weights(self, plan: Plan, seed: int) -> Path:
        """Return the folder for the trained weights of a plan and a seed."""
        return self.state / "weights" / f"{plan.digest}-{seed}"

    def refit(self, plan: Plan, seed: int) -> Path:
        """Return the folder for the weights of a plan that was trained on all rows."""
        return self.state / "weights" / f"{plan.digest}-{seed}-all-rows"

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
        folder = self.state / "under_way"
        for state in folder.glob("*"):
            if state not in kept:
                shutil.rmtree(state, ignore_errors=True)
        with suppress(OSError):  # the folder is missing, or keeps a state
            folder.rmdir()

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
    def is_finished(self) -> bool:
        """Whether the run has a result and a best plan."""
        return self._result_path.is_file() and self.best.is_dir()

    def load_result(self) -> SearchResult:
        """Read the result; raises RunDirError if the run has not finished, or the result is damaged."""
        command = resume_command(self.read_spec(), self.path)
        try:
            return read_record(self._result_path, SearchResult, remedy=f"write it again with `{command}`")
        except FileNotFoundError as error:
            raise RunDirError(
                f"{self.path} has no result: the run has not finished; resume it with `{command}`."
            ) from error


def read_plan(path: Path | str) -> PlanDocument:
    """Read a plan from a file, or a folder that holds `plan.yaml` or `best/plan.yaml` (a run directory).

    Raises SpecError if there is no such file, or its content is not a plan.
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
    if not is_run(path):
        raise RunDirError(
            f"{path} is not the folder of a run: it has no run.yaml. Pass the --out of a search, or omit "
            "--resume to start one there."
        )


class MeasurementLog:
    """A JSON Lines file of measurements; a crash while a line is written loses that line alone."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def append(self, measurement: Measurement) -> None:
        """Add a measurement, on a line of its own; it is on the disk when this returns."""
        content = {"measurement": to_json(measurement)}
        line = json.dumps({"sha256": digest_of(content), **content}) + "\n"
        try:
            self._path.parent.mkdir(exist_ok=True)
            with self._path.open("a+b") as stream:
                stream.seek(max(0, stream.tell() - 1))
                is_torn = stream.read(1) not in (b"", b"\n")
                stream.write(b"\n" * is_torn + line.encode())
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            raise cannot_write(self._path, error) from error

    def load(self) -> tuple[Measurement, ...]:
        """Load the last measurement of each plan and fidelity; damaged lines are skipped with a warning."""
        try:
            lines = self._path.read_bytes().splitlines()
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise RunDirError(f"{self._path} cannot be read: {error.strerror or error}.") from error
        measured = {}
        for number, line in enumerate(lines, start=1):
            try:
                content = json.loads(line)
                if content.pop("sha256") != digest_of(content):
                    raise ValueError("the checksum differs")
                measurement = from_json(Measurement, content["measurement"])
            except (ValueError, KeyError, TypeError, AttributeError):
                log.warning("%s, line %d is damaged; it will be measured again.", self._path, number)
            else:
                measured[measurement.plan, measurement.fidelity] = measurement
        return tuple(measured.values())

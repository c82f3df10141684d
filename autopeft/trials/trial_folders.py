"""Folders of trials, the commands that train them, and checks of what a trainer writes."""

from __future__ import annotations

import json
import math
import os
import platform
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
from peft import PeftConfig
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open

from autopeft.client import SCHEMA_VERSION, Score, Trial
from autopeft.errors import SpecError, TrainingError, first_line_of
from autopeft.exports._shared.adapter import PREFIX
from autopeft.store import faults_of, read_record, write_record, write_text
from autopeft.train import MOVE, MOVE_BELOW, MOVE_OF_NUMBERS, warmup_steps
from autopeft.types import Fidelity, Plan

WEIGHTS = "adapter_model.safetensors"
_CLAIM = "claim.json"
_HEAD_MOVES = {"classes": MOVE, "numbers": MOVE_OF_NUMBERS, "below": MOVE_BELOW}
_SHOWN = 200  # characters of the last line of a log; heuristic
_MOST_APART = 1e-3  # between a score and the mean of its rows, relative to max(1, score); heuristic


def read_score(path: Path) -> Score:
    """Read the score that a command wrote; raises TrainingError if the file is missing or malformed."""
    try:
        return TypeAdapter(Score).validate_json(path.read_bytes())
    except FileNotFoundError:
        raise TrainingError(
            f'The trainer did not write {path.name}; write {{"value": 0.9}} to the path of {{result}}.'
        ) from None
    except ValidationError as error:
        faults = "; ".join(" ".join(fault).strip() for fault in faults_of(error))
        raise TrainingError(f"{path.name} cannot be read: {faults}.") from None


def require_sound(score: Score, *, n_rows: int | None, span: float | None) -> None:
    """Raise TrainingError unless `per_example` fits the value and the `n_rows` of earlier trials."""
    rows = score.per_example
    if n_rows is not None and len(rows) != n_rows:
        raise TrainingError(
            f"per_example has {len(rows)} numbers, and {n_rows} in earlier trials; score the same rows in "
            "every trial."
        )
    if not rows:
        return
    if not all(map(math.isfinite, rows)):
        raise TrainingError("A number of per_example is not finite; fix the metric.")
    mean = math.fsum(rows) / len(rows)
    if abs(mean - score.value) > _MOST_APART * max(1.0, abs(score.value)):
        raise TrainingError(
            f"The value is {score.value:g} and the mean of per_example is {mean:g}; they must be equal."
        )
    if span is not None and max(rows) - min(rows) > span * (1 + 1e-6):
        raise TrainingError(
            f"The numbers of per_example range from {min(rows):g} to {max(rows):g}, but the metric has a "
            f"range of width {span:g}; fix them, or pass another metric name."
        )


@dataclass(frozen=True, kw_only=True)
class Claim:
    """Which process got a trial, and when, in seconds since 1970."""

    number: int
    plan: Plan
    fidelity: Fidelity
    host: str
    pid: int
    at: float

    def holds(self, deadline_seconds: float) -> bool:
        """Whether the process may still return a score: it is not known to be gone, nor too late."""
        is_gone = self.host == platform.node()
        with suppress(psutil.NoSuchProcess):
            # A container that started again may have a younger process of the same number.
            is_gone &= psutil.Process(self.pid).create_time() > self.at
        return not is_gone and time.time() - self.at < deadline_seconds


class TrialFolders:
    """The trials of a study that processes have claimed, a folder each; callers hold the study's lock.

    A lost trial gets a new number: its first process may still write to the old folder.
    """

    def __init__(self, path: Path) -> None:
        self._path = path.absolute()

    def claims(self) -> dict[tuple[Plan, Fidelity], Claim]:
        """Read the latest claim of each plan and fidelity."""
        files = sorted(self._path.glob(f"*/{_CLAIM}"))
        claims = [read_record(file, Claim, remedy="begin another study") for file in files]
        return {(claim.plan, claim.fidelity): claim for claim in claims}

    def adapter(self, plan: Plan, seed: int) -> Path:
        """Find the folder of the adapter of a full run; raises LookupError if there is none."""
        for claim in self.claims().values():
            if (claim.plan, claim.fidelity.split, claim.fidelity.seed) == (plan, "confirm", seed):
                return self._path / f"{claim.number:04d}" / "adapter"
        raise LookupError(f"plan {plan.digest} was not trained in full with seed {seed}")

    def give(
        self, plan: Plan, fidelity: Fidelity, *, config: PeftConfig, words: str, full_steps: int
    ) -> Trial:
        """Claim a trial for this process, and write its files."""
        number = 1 + max((int(f.name) for f in self._path.glob("*") if f.name.isdecimal()), default=-1)
        folder, is_trained = self._path / f"{number:04d}", fidelity.split != "test"
        n_steps = fidelity.train_steps if is_trained else 0
        content = {
            "schema_version": SCHEMA_VERSION,
            "number": number,
            "words": words,
            "config": str(folder / "config"),
            "choices": dict(plan.choices),
            "learning_rate": plan.learning_rate,
            "head_moves": {name: move * plan.head_factor for name, move in _HEAD_MOVES.items()},
            "trainable_params": plan.trainable_params,
            "steps": n_steps,
            "warmup_steps": warmup_steps(n_steps),
            "full_steps": full_steps,
            "seed": fidelity.seed,
            "split": fidelity.split,
            "folder": str(folder / "adapter" if is_trained else self.adapter(plan, fidelity.seed)),
            "path": str(folder),
        }
        write_text(folder / "trial.json", json.dumps(content, indent=2) + "\n")
        config.save_pretrained(str(folder / "config"))
        claim = Claim(
            number=number, plan=plan, fidelity=fidelity, host=platform.node(), pid=os.getpid(), at=time.time()
        )
        write_record(folder / _CLAIM, claim)
        return Trial.load(folder / "trial.json")

    def claim(self, trial: Trial) -> Claim | None:
        """Find the claim of a trial; None if another process has it now."""
        return next((claim for claim in self.claims().values() if claim.number == trial.number), None)

    def give_back(self, trial: Trial) -> None:
        """Release a trial that this process will not finish."""
        (trial.path / _CLAIM).unlink(missing_ok=True)


def weight_shapes(folder: Path) -> dict[str, list[int]]:
    """Read the shapes of a trainer's adapter by the base model's names; raises TrainingError without one."""
    try:
        with safe_open(folder / WEIGHTS, framework="np") as file:
            names = list(file.keys())
            return {name.removeprefix(PREFIX): file.get_slice(name).get_shape() for name in names}
    except FileNotFoundError:
        raise TrainingError(
            "The trainer did not write an adapter; call model.save_pretrained(trial.folder), or pass "
            "trial.callback() to a Trainer."
        ) from None
    except (OSError, SafetensorError) as error:
        raise TrainingError(f"{WEIGHTS} cannot be read: {first_line_of(error)}.") from None


def check_adapter(folder: Path, plan: Plan) -> None:
    """Raise TrainingError unless a trainer's adapter has the parameters of its plan."""
    targets, shapes = {adapter.target for adapter in plan.adapters}, weight_shapes(folder)
    in_targets = [name for name in shapes if any(f".{target}." in f".{name}" for target in targets)]
    n_params = sum(math.prod(shapes[name]) for name in in_targets)
    if n_params != plan.trainable_params:
        raise TrainingError(
            f"The adapter has {n_params:,} parameters and its plan {plan.trainable_params:,}; use "
            "trial.peft_config unchanged."
        )


def command(words: Sequence[str], *, max_seconds: float | None = None) -> Callable[[Trial], Score]:
    """Return a training function that runs a command for each trial, with its output in `log.txt`.

    `{trial}` in its words is the path of a JSON file with the keys of `Trial`, `{result}` the path to which
    the command writes JSON with the keys of `Score`. After `max_seconds` a trial and the processes that it
    started are killed. Raises SpecError if one of the two is missing.
    """
    for place in ("{trial}", "{result}"):
        if not any(place in word for word in words):
            raise SpecError(
                f"The command has no {place}; pass both, as in: autopeft tune … -- "
                "python train.py {trial} {result}"
            )

    def run(trial: Trial) -> Score:
        paths = {"{trial}": str(trial.path / "trial.json"), "{result}": str(trial.path / "result.json")}
        filled = list(words)
        for place, path in paths.items():
            filled = [word.replace(place, path) for word in filled]
        _run(filled, trial.path / "log.txt", max_seconds)
        return read_score(trial.path / "result.json")

    return run


def _run(words: Sequence[str], output_path: Path, max_seconds: float | None) -> None:
    """Run a command to its end, or raise TrainingError."""
    with output_path.open("wb") as output:
        try:
            process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            raise TrainingError(f"{words[0]} cannot be started: {error.strerror or error}.") from None
        try:
            code = process.wait(max_seconds)
        except subprocess.TimeoutExpired:
            raise TrainingError(f"The command took over {max_seconds:g} s and was stopped.") from None
        finally:
            _end(process)
    if code:
        lines = output_path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        last_line = lines[-1].strip() if lines else "it wrote nothing"
        how = f"exit code {code}" if code > 0 else f"signal {-code}"
        raise TrainingError(f"The command ended with {how}: {last_line[:_SHOWN]} ({output_path}).")


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill a command with its process group, and children that a launcher gave sessions of their own."""
    workers: list[psutil.Process] = []
    with suppress(psutil.NoSuchProcess):
        workers = psutil.Process(process.pid).children(recursive=True)
    if hasattr(os, "killpg"):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    for worker in workers:
        with suppress(psutil.NoSuchProcess):
            worker.kill()
    process.kill()
    process.wait()

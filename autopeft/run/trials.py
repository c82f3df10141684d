"""Trials: what a training function of the user gets, and the score that it gives back."""

from __future__ import annotations

import json
import math
import os
import platform
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import numpy as np
import psutil
from peft import PeftConfig, PeftModel, get_peft_model
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    InstanceOf,
    PrivateAttr,
    TypeAdapter,
    ValidationError,
    WithJsonSchema,
)
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState

from autopeft.errors import SpecError, TrainingError, first_line_of
from autopeft.exports.parts.adapter import PREFIX
from autopeft.extension import discover
from autopeft.model import head_names
from autopeft.records import EvaluatedSplit, Fidelity, OptionValue, Plan, from_json, to_json
from autopeft.store import faults_of, read_checked, write_checked, write_text
from autopeft.train import input_rms, user_head_rates, warmup_steps

if TYPE_CHECKING:
    from typing_extensions import Self  # Python 3.10 has none in `typing`

WEIGHTS = "adapter_model.safetensors"
_CLAIM = "claim.json"
_RESERVE = "reserve"  # a file in a trial's folder that makes room for its score when the disk is full
_RESERVE_BYTES = 2**18  # scores of some 12,000 rows
_PLACEHOLDERS = ("{trial}", "{result}")  # for paths, in the user's command
_SHOWN = 200  # characters of the last line of a log; chosen by hand

_MOST_APART = 1e-3  # between a score and the mean of its rows, times the larger of score and 1; by hand


@dataclass(frozen=True, kw_only=True)
class Score:
    """How good a trained adapter is on the rows of a trial's split.

    Attributes:
        value: The metric. NaN or infinite if the training diverged.
        per_example: One number for each row, in the same order in every trial, whose mean is the value (for
            accuracy 0 or 1). Plans are then compared row by row, and one seed is enough.
        loss: The loss on the same rows, which ranks short runs more surely than a metric.
    """

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)  # of a file with these keys

    value: float
    per_example: Sequence[float] = ()
    loss: float | None = None

    def __post_init__(self) -> None:
        """Make plain numbers of arrays and tensors."""

        def plain(numbers: Any) -> Any:
            return getattr(numbers, "tolist", lambda: numbers)()

        try:
            rows = tuple(float(plain(row)) for row in plain(self.per_example))
            loss = None if self.loss is None else float(plain(self.loss))
            numbers = {"value": float(plain(self.value)), "per_example": rows, "loss": loss}
        except (TypeError, ValueError, RuntimeError) as error:  # the last by a tensor of several elements
            raise TrainingError(
                f"The value and loss of a score are one number each, and per_example one a row: {error}."
            ) from error
        for name, number in numbers.items():
            object.__setattr__(self, name, number)

    @classmethod
    def of(
        cls, metric: str, truth: Sequence[Any], guesses: Sequence[Any], *, loss: float | None = None
    ) -> Self:
        """Score guesses by a metric that `autopeft` knows, such as accuracy or spearman.

        Raises:
            UnknownNameError: There is no such metric.

        Example:
            >>> Score.of("accuracy", [1, 0, 1], [1, 1, 1]).per_example
            (1.0, 0.0, 1.0)
        """
        scorer = discover("autopeft.metrics")[metric]
        value, rows = scorer.score(np.asarray(truth, dtype=float), np.asarray(guesses, dtype=float))
        return cls(value=value, per_example=rows, loss=loss)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read the score in a JSON file with these keys; TrainingError if it is missing or malformed."""
        try:
            return TypeAdapter(cls).validate_json(path.read_bytes())
        except FileNotFoundError:
            raise TrainingError(
                f'The trainer wrote no {path.name}; write {{"value": 0.9}} to the path of {{result}}.'
            ) from None
        except ValidationError as error:
            is_json = error.errors()[0]["type"] != "json_invalid"
            faults = [" ".join(fault) for fault in faults_of(error)] if is_json else ["it is no JSON"]
            raise TrainingError(f"{path.name} cannot be read: {'; '.join(faults).strip()}.") from None

    @classmethod
    def given(cls, answer: object) -> Self:
        """Make a score of what a training function returned; TrainingError if that is no number or score."""
        if isinstance(answer, cls):
            return answer
        if isinstance(answer, float | int | np.number | Tensor) and not isinstance(answer, bool):
            return cls(value=cast(float, answer))
        raise TrainingError(
            f"The training function returned {type(answer).__name__} {str(answer)[:40]!r}; return a number "
            "or an autopeft.Score."
        )

    def require_sound(self, *, n_rows: int | None, span: float | None) -> None:
        """Raise TrainingError if `per_example` is inconsistent, or not comparable with earlier trials.

        `n_rows` is the length of `per_example` in earlier trials on the same split, None before the first.
        `span` is the width of the metric's range, None if it is unknown.
        """
        rows = self.per_example
        if n_rows is not None and len(rows) != n_rows:
            raise TrainingError(
                f"The score has {len(rows)} numbers in per_example, and earlier trials had {n_rows}; score "
                "the same rows of the split in every trial."
            )
        if not rows:
            return
        if not all(map(math.isfinite, rows)):
            raise TrainingError("A number of per_example is not finite, and the value is; mend the metric.")
        mean = math.fsum(rows) / len(rows)
        if abs(mean - self.value) > _MOST_APART * max(1.0, abs(self.value)):
            raise TrainingError(
                f"The value is {self.value:g} and the mean of per_example is {mean:g}; they have to be equal."
            )
        if span is not None and max(rows) - min(rows) > span * (1 + 1e-6):
            raise TrainingError(
                f"The numbers of per_example reach from {min(rows):g} to {max(rows):g}, and the metric has a "
                f"range of width {span:g}; pass another name of the metric, or mend them."
            )


class Trial(BaseModel):
    """One run that the search asks for: the content of `trial.json`.

    Attributes:
        number: From 0 on, in the order in which trials are given out.
        words: What people call the plan, such as `LoRA on q and v`.
        config: For `peft.get_peft_model`; in the file, the folder of its `adapter_config.json`.
        choices: The value of each name in `search`, such as `{"packing": True}`.
        learning_rate: The peak of AdamW's rate, for the adapter.
        trainable_params: Of the adapter; a task head is not counted.
        steps: Optimizer steps to make; the rate decays to 0 at the last one. 0 if `split` is `test`: the
            adapter in `folder` is to be evaluated.
        warmup_steps: How many of the steps are the warm-up.
        full_steps: Those of a full run.
        seed: Of the training.
        split: Of the rows to evaluate on: `search` after short runs, `confirm` after full ones, `test` once.
        folder: Where to write the adapter, by `save_pretrained`.
        path: The trial's own folder, for its log and whatever else the trainer writes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = 1
    number: int
    words: str
    config: Annotated[
        InstanceOf[PeftConfig],
        BeforeValidator(PeftConfig.from_pretrained),
        WithJsonSchema({"type": "string"}),
    ]
    choices: dict[str, OptionValue] = {}
    learning_rate: float
    trainable_params: int
    steps: int
    warmup_steps: int
    full_steps: int
    seed: int
    split: EvaluatedSplit
    folder: Path
    path: Path
    _losses: list[float] = PrivateAttr(default_factory=list)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a trial from its `trial.json`, in a script that a command starts."""
        return cls.model_validate_json(Path(path).read_bytes())

    @property
    def arguments(self) -> dict[str, Any]:
        """Keyword arguments for `TrainingArguments` and the configs of trl."""
        schedule = {"max_steps": self.steps, "warmup_steps": self.warmup_steps, "seed": self.seed}
        return {"learning_rate": self.learning_rate, "lr_scheduler_type": "linear", **schedule}

    def attach(self, model: Any) -> PeftModel:
        """Attach the adapter to train; if `split` is `test`, the finished one in `folder`.

        Raises TrainingError if the model has a head, and the class that the study adapts has none.
        """
        if self.steps:
            if (head := head_names(model)) and not getattr(self.config, "modules_to_save", None):
                raise TrainingError(
                    f"The head of {type(model).__name__} ({', '.join(head)}) would stay untrained, since "
                    "the config names a class without head; pass the class that your trainer loads, as "
                    "auto_class='AutoModelForSequenceClassification' or --auto-class, and another out."
                )
            return get_peft_model(model, self.config)
        return PeftModel.from_pretrained(model, str(self.folder), is_trainable=True)

    def optimizer_groups(self, model: nn.Module, batch: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Make groups for AdamW: the adapter at the trial's rate, a new task head at a rate of its own.

        A head at the adapter's rate costs up to 16 points of accuracy. The head's rate follows from the size
        of its inputs in `batch`, as in autopeft's own loop.
        """
        maps = {
            name: module
            for name, module in model.named_modules()
            if isinstance(module, nn.Linear) and ".modules_to_save." in name and module.weight.requires_grad
        }
        trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        groups = []
        if maps:
            was_training = model.training
            rms = input_rms(model.eval(), [dict(batch)], maps, call=lambda module, rows: module(**rows))
            model.train(was_training)
            for name, rate in user_head_rates(maps, rms).items():
                weights = [trained.pop(f"{name}.{part}") for part, _ in maps[name].named_parameters()]
                groups.append({"params": weights, "lr": rate})
        return [{"params": list(trained.values()), "lr": self.learning_rate}, *groups]

    def write_score(self, path: str | Path, score: Score | float) -> None:
        """Write a script's score to the path that the command got as `{result}`."""
        score = Score.given(score)
        rows = [float(row) for row in score.per_example]
        write_text(path, json.dumps({"value": score.value, "per_example": rows, "loss": score.loss}))

    def report(self, step: int, loss: float) -> bool:
        """Note the training loss at a step; false if the training is hopeless and should stop.

        Raises:
            TrainingError: The step is beyond those of the trial.
        """
        if step > self.steps:
            raise TrainingError(
                f"The trainer made step {step}, and the trial has {self.steps}; pass trial.steps as its "
                "number of steps (max_steps)."
            )
        self._losses.append(loss)
        return math.isfinite(loss)

    @property
    def has_diverged(self) -> bool:
        """Whether the latest loss that was reported is not finite."""
        return bool(self._losses) and not math.isfinite(self._losses[-1])

    def callback(self) -> TrainerCallback:
        """For any `Trainer`: report losses, stop if one is not finite, check the steps, save the adapter."""
        return _TrialCallback(self)


class _TrialCallback(TrainerCallback):  # type: ignore[misc]  # transformers gives no types
    def __init__(self, trial: Trial) -> None:
        self._trial = trial

    def on_log(
        self, args: Any, state: TrainerState, control: TrainerControl, logs: Any = None, **_: Any
    ) -> None:
        loss = (logs or {}).get("loss")
        if loss is not None and not self._trial.report(state.global_step, float(loss)):
            control.should_training_stop = True

    def on_train_end(self, args: Any, state: TrainerState, control: Any, model: Any = None, **_: Any) -> None:
        trial = self._trial
        if not trial.has_diverged and state.global_step != trial.steps:
            raise TrainingError(
                f"The trainer made {state.global_step} steps, and the trial has {trial.steps}; pass "
                "trial.steps as max_steps."
            )
        if state.is_world_process_zero:
            parts = (part for part in model.modules() if isinstance(part, PeftModel))
            next(parts, model).save_pretrained(str(trial.folder))


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
        """Whether the process may still bring a score: before the deadline, if it runs, as far as we see."""
        is_gone = self.host == platform.node()
        with suppress(psutil.NoSuchProcess):
            # A container that started again may have a younger process of the same number.
            is_gone &= psutil.Process(self.pid).create_time() > self.at
        return not is_gone and time.time() - self.at < deadline_seconds


class TrialFolders:
    """The trials of a study that were given out, a folder each; callers hold the study's lock.

    A lost trial is given out again under a new number: its first process may still write to the old folder.
    """

    def __init__(self, path: Path) -> None:
        self._path = path.absolute()

    def claims(self) -> dict[tuple[Plan, Fidelity], Claim]:
        """Read the latest claim of each plan and fidelity."""
        files = sorted(self._path.glob(f"*/{_CLAIM}"))
        claims = [from_json(Claim, read_checked(file, remedy="begin another study")) for file in files]
        return {(claim.plan, claim.fidelity): claim for claim in claims}

    def adapter(self, plan: Plan, seed: int) -> Path:
        """Find the folder into which the full run of a plan and seed wrote its adapter; else LookupError."""
        for claim in self.claims().values():
            if (claim.plan, claim.fidelity.split, claim.fidelity.seed) == (plan, "confirm", seed):
                return self._path / f"{claim.number:04d}" / "adapter"
        raise LookupError(f"plan {plan.digest} was not trained in full with seed {seed}")

    def give(
        self, plan: Plan, fidelity: Fidelity, *, config: PeftConfig, words: str, full_steps: int
    ) -> Trial:
        """Claim a trial for this process, and write its files; RunDirError if that fails."""
        number = 1 + max((int(folder.name) for folder in self._path.glob("[0-9]*")), default=-1)
        folder, is_trained = self._path / f"{number:04d}", fidelity.split != "test"
        n_steps = fidelity.train_steps if is_trained else 0
        content = {
            "schema_version": 1,
            "number": number,
            "words": words,
            "config": str(folder / "config"),
            "choices": dict(plan.choices),
            "learning_rate": plan.learning_rate,
            "trainable_params": plan.trainable_params,
            "steps": n_steps,
            "warmup_steps": warmup_steps(n_steps),
            "full_steps": full_steps,
            "seed": fidelity.seed,
            "split": fidelity.split,
            "folder": str(folder / "adapter" if is_trained else self.adapter(plan, fidelity.seed)),
            "path": str(folder),
        }
        for leftover in self._path.glob(f"*/.{_RESERVE}.*.tmp"):  # its process was killed here
            leftover.unlink()
        write_text(folder / _RESERVE, " " * _RESERVE_BYTES)
        write_text(folder / "trial.json", json.dumps(content, indent=2) + "\n")
        config.save_pretrained(str(folder / "config"))
        host, pid = platform.node(), os.getpid()
        claim = Claim(number=number, plan=plan, fidelity=fidelity, host=host, pid=pid, at=time.time())
        write_checked(folder / _CLAIM, to_json(claim))
        return Trial.load(folder / "trial.json")

    def claim(self, trial: Trial) -> Claim | None:
        """Find the claim of a trial; None if another process has taken it over."""
        return next((claim for claim in self.claims().values() if claim.number == trial.number), None)

    def free(self, trial: Trial) -> None:
        """Free the disk space that was reserved for the score of a trial."""
        (trial.path / _RESERVE).unlink(missing_ok=True)

    def give_back(self, trial: Trial) -> None:
        """Let another process have a trial that this one will not finish."""
        self.free(trial)
        (trial.path / _CLAIM).unlink(missing_ok=True)


def weight_shapes(folder: Path) -> dict[str, list[int]]:
    """Read the shapes of a trainer's adapter by the base model's names; TrainingError if there is none."""
    try:
        with safe_open(folder / WEIGHTS, framework="np") as file:
            names = list(file.keys())
            return {name.removeprefix(PREFIX): file.get_slice(name).get_shape() for name in names}
    except FileNotFoundError:
        raise TrainingError(
            "The trainer wrote no adapter; call model.save_pretrained(trial.folder), or pass "
            "trial.callback() to a Trainer."
        ) from None
    except (OSError, SafetensorError) as error:
        raise TrainingError(f"{WEIGHTS} cannot be read: {first_line_of(error)}.") from None


def check_adapter(folder: Path, plan: Plan) -> None:
    """Raise TrainingError if a trainer's adapter is missing, unreadable, or of another size than its plan.

    Weights of modules that are no sites of the plan, such as a task head, are not counted.
    """
    sites, shapes = {adapter.site for adapter in plan.adapters}, weight_shapes(folder)
    in_sites = [name for name in shapes if any(f".{site}." in f".{name}" for site in sites)]
    n_params = sum(math.prod(shapes[name]) for name in in_sites)
    if n_params != plan.trainable_params:
        raise TrainingError(
            f"The adapter has {n_params:,} parameters and its plan {plan.trainable_params:,}; attach "
            "trial.config as it is."
        )


def command(words: Sequence[str], *, max_seconds: float | None = None) -> Callable[[Trial], Score]:
    """Make a training function that runs a command for each trial; its output goes to the trial's `log.txt`.

    Args:
        words: The command and its arguments. `{trial}` in them is the path of a JSON file with the keys of
            `Trial`, `{result}` the path to which the command writes JSON with the keys of `Score`.
        max_seconds: After this time a trial is killed, with the processes that it started; None: no limit.

    Raises:
        SpecError: The command lacks `{trial}` or `{result}`.
    """
    lacking = [place for place in _PLACEHOLDERS if not any(place in word for word in words)]
    if lacking:
        raise SpecError(
            f"The command has no {' and no '.join(lacking)}; name both, as in: autopeft tune … -- "
            "python train.py {trial} {result}"
        )

    def run(trial: Trial) -> Score:
        result, output_path = trial.path / "result.json", trial.path / "log.txt"
        paths = str(trial.path / "trial.json"), str(result)
        filled = [word.replace("{trial}", paths[0]).replace("{result}", paths[1]) for word in words]
        with output_path.open("wb") as output:
            try:
                process = subprocess.Popen(
                    filled,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            except OSError as error:
                reason = error.strerror or error
                raise TrainingError(f"{filled[0]} cannot be started: {reason}.") from None
            try:
                code = process.wait(max_seconds)
            except subprocess.TimeoutExpired:
                raise TrainingError(f"The command took over {max_seconds:g} s and was ended.") from None
            finally:  # ends also the processes that the command left running
                _end(process)
        if code:
            lines = output_path.read_text(encoding="utf-8", errors="replace").split("\n")
            last_line = next((line.strip() for line in reversed(lines) if line.strip()), "it wrote nothing")
            how = f"exit code {code}" if code > 0 else f"signal {-code}"
            raise TrainingError(f"The command ended with {how}: {last_line[:_SHOWN]} ({output_path}).")
        return Score.read(result)

    return run


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

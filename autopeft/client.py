"""Read a trial of `autopeft tune`, attach its adapter, and write its score, in your training script.

This file imports nothing but the standard library, so a script in another environment, without autopeft and
with any peft from 0.14 on, can use a copy of it:

    autopeft tune --client autopeft_client.py

Its methods import peft, torch and transformers from the script's own environment when they are called.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

SCHEMA_VERSION = 1
_HEADS = ("score", "classifier", "qa_outputs")  # what transformers calls task heads
_LEAST_RMS = 0.01  # after a batch norm, inputs are far smaller in evaluation than in training; heuristic


@dataclass(frozen=True)
class Score:
    """How good a trained adapter is on the rows of a trial's split.

    Attributes:
        value: The metric. NaN or infinite if the training diverged.
        per_example: One number for each row, in the same order in every trial, whose mean is the value (for
            accuracy 0 or 1). Plans are then compared row by row, and one seed is enough.
        loss: The loss on the same rows, which ranks short runs more reliably than a metric.
    """

    # How autopeft reads a file with these keys.
    __pydantic_config__: ClassVar[Any] = {"extra": "forbid", "strict": True}

    value: float
    per_example: Sequence[float] = ()
    loss: float | None = None

    def __post_init__(self) -> None:
        """Turn arrays and tensors into plain numbers."""
        try:
            rows = tuple(float(_plain(row)) for row in _plain(self.per_example))
            loss = None if self.loss is None else float(_plain(self.loss))
            numbers = {"value": float(_plain(self.value)), "per_example": rows, "loss": loss}
        except (TypeError, ValueError, RuntimeError) as error:  # the last from a tensor of several elements
            raise ValueError(
                f"value and loss of a score must be numbers, and per_example a list of numbers: {error}."
            ) from error
        for name, number in numbers.items():
            object.__setattr__(self, name, number)

    @classmethod
    def of(
        cls, metric: str, truth: Sequence[Any], guesses: Sequence[Any], *, loss: float | None = None
    ) -> Score:
        """Compute a metric of autopeft, such as accuracy or spearman; autopeft must be installed.

        Example:
            >>> Score.of("accuracy", [1, 0, 1], [1, 1, 1]).per_example
            (1.0, 0.0, 1.0)
        """
        import numpy as np

        from autopeft.plugins import discover

        scorer = discover("autopeft.metrics")[metric]
        value, rows = scorer.score(np.asarray(truth, dtype=float), np.asarray(guesses, dtype=float))
        return cls(value=value, per_example=rows, loss=loss)

    @classmethod
    def given(cls, answer: Any) -> Score:
        """Return what a training function returned as a score; raises ValueError if it is not a number."""
        if isinstance(answer, cls):
            return answer
        is_number = isinstance(answer, (int, float)) and not isinstance(answer, bool)
        if is_number or hasattr(answer, "tolist"):
            return cls(value=answer)
        raise ValueError(
            f"The training function returned {type(answer).__name__} {str(answer)[:40]!r}; return a number "
            "or a Score."
        )


def _plain(numbers: Any) -> Any:
    return numbers.tolist() if hasattr(numbers, "tolist") else numbers


@dataclass(frozen=True)
class Trial:
    """One run that the search asks for: the content of `trial.json`.

    Attributes:
        schema_version: Version of the file; this client reads version 1.
        number: Counts trials from 0.
        words: A short description of the plan, such as `LoRA on q and v`.
        config: Folder of the `adapter_config.json` to attach; `peft_config` is the loaded config.
        learning_rate: Peak learning rate of AdamW for the adapter.
        head_moves: How far a step of AdamW should move the outputs of a new task head: of a layer that
            predicts `classes` or `numbers`, and of layers `below` it. `optimizer_groups` uses them.
        trainable_params: Parameters of the adapter, without a task head.
        steps: Optimizer steps to make; the rate decays to 0 at the last one. 0 if `split` is `test`: the
            adapter in `folder` is to be evaluated.
        warmup_steps: Number of these steps that are the warm-up.
        full_steps: Steps of a full run.
        seed: Seed of the training.
        split: Rows to evaluate on: `search` after short runs, `confirm` after full ones, `test` once.
        folder: Where to write the adapter, by `save_pretrained`.
        path: The trial's own folder, for its log and whatever else the trainer writes.
        choices: The value of each name in `search`, such as `{"packing": True}`.
    """

    schema_version: int
    number: int
    words: str
    config: Path
    learning_rate: float
    head_moves: dict[str, float]
    trainable_params: int
    steps: int
    warmup_steps: int
    full_steps: int
    seed: int
    split: str
    folder: Path
    path: Path
    choices: dict[str, bool | int | float | str] = field(default_factory=dict)

    @classmethod
    def load(cls, path: str | Path) -> Trial:
        """Read a trial from its `trial.json`, in a script that a command starts.

        Paths in the file may be relative to its folder. A file of a newer autopeft raises ValueError.
        """
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        if content["schema_version"] != SCHEMA_VERSION:
            raise ValueError(
                f"{path} has schema_version {content['schema_version']}, and this client reads "
                f"{SCHEMA_VERSION}; write it again with: autopeft tune --client {Path(__file__).name}"
            )
        places = {name: Path(path).parent / content[name] for name in ("config", "folder", "path")}
        return cls(**{**{each.name: content[each.name] for each in fields(cls)}, **places})

    @cached_property
    def peft_config(self) -> Any:
        """The config of the adapter to attach, loaded by the installed `peft`."""
        from peft import PEFT_TYPE_TO_CONFIG_MAPPING, __version__

        content = json.loads((self.config / "adapter_config.json").read_text(encoding="utf-8"))
        config_class = PEFT_TYPE_TO_CONFIG_MAPPING.get(content["peft_type"])
        if config_class is None:
            raise ValueError(
                f"peft {__version__} does not have {content['peft_type']}; upgrade it, or pass --methods "
                "with those that it has to autopeft tune."
            )
        # Not PeftConfig: up to peft 0.14 it drops what a newer peft wrote, rank and targets included.
        return config_class.from_pretrained(str(self.config))

    @property
    def arguments(self) -> dict[str, Any]:
        """Keyword arguments for `TrainingArguments` and the configs of TRL."""
        schedule = {"max_steps": self.steps, "warmup_steps": self.warmup_steps, "seed": self.seed}
        return {"learning_rate": self.learning_rate, "lr_scheduler_type": "linear", **schedule}

    def attach(self, model: Any) -> Any:
        """Attach the adapter to train; if `split` is `test`, the finished one in `folder`."""
        from peft import PeftModel, get_peft_model

        if not self.steps:
            return PeftModel.from_pretrained(model, str(self.folder), is_trainable=True)
        head = [name for name in _HEADS if hasattr(model, name)]
        if head and not getattr(self.peft_config, "modules_to_save", None):
            raise ValueError(
                f"The head of {type(model).__name__} ({', '.join(head)}) would stay untrained, since "
                "the study adapts a class without a head; start it again with the class that your trainer "
                "loads, as auto_class='AutoModelForSequenceClassification' or --auto-class."
            )
        return get_peft_model(model, self.peft_config)

    def optimizer_groups(self, model: Any, batch: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Make parameter groups for AdamW: the adapter at the trial's rate, a new task head at its own rates.

        A head at the adapter's rate costs up to 16 points of accuracy. AdamW moves an output by about
        rate × inputs × their root mean square (RMS). So the rate of a linear layer of the head is its move
        in `head_moves` divided by the number of its inputs and their RMS in `batch`, without padding.
        """
        import torch

        layers = {
            name: layer
            for name, layer in model.named_modules()
            if isinstance(layer, torch.nn.Linear)
            and ".modules_to_save." in name
            and layer.weight.requires_grad
        }
        sizes = _input_sizes(model, layers, batch) if layers else {}
        trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        groups = []
        for name, layer in layers.items():
            is_last = name == list(layers)[-1]
            kind = "below" if not is_last else "numbers" if layer.out_features == 1 else "classes"
            weights = [trained.pop(f"{name}.{each}") for each, _ in layer.named_parameters()]
            rate = self.head_moves[kind] / (layer.in_features * sizes.get(name, 1.0))
            groups.append({"params": weights, "lr": rate})
        return [{"params": list(trained.values()), "lr": self.learning_rate}, *groups]

    def write_score(self, path: str | Path, score: Score | float) -> None:
        """Write a script's score to the path that the command got as `{result}`."""
        half_written = Path(f"{path}.tmp")
        half_written.write_text(json.dumps(asdict(Score.given(score))), encoding="utf-8")
        half_written.replace(path)

    def report(self, step: int, loss: float) -> bool:
        """Report a step and its training loss; false if the loss is not finite and training should stop."""
        if step > self.steps:
            raise ValueError(
                f"The trainer made step {step}, and the trial has {self.steps}; pass trial.steps as its "
                "number of steps (max_steps)."
            )
        self.__dict__["has_diverged"] = not math.isfinite(loss)
        return math.isfinite(loss)

    @cached_property
    def has_diverged(self) -> bool:
        """Whether the latest loss that was reported is not finite."""
        return False

    def callback(self) -> Any:
        """Return a callback for any `Trainer`: report losses, check the steps, save the adapter."""
        from peft import PeftModel
        from transformers import TrainerCallback

        trial = self

        class TrialCallback(TrainerCallback):  # type: ignore[misc]  # transformers gives no types
            def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
                loss = (logs or {}).get("loss")
                if loss is not None and not trial.report(state.global_step, float(loss)):
                    control.should_training_stop = True

            def on_train_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
                if not trial.has_diverged and state.global_step != trial.steps:
                    raise ValueError(
                        f"The trainer made {state.global_step} steps, and the trial has {trial.steps}; pass "
                        "trial.steps as max_steps."
                    )
                if state.is_world_process_zero:
                    adapted = (module for module in model.modules() if isinstance(module, PeftModel))
                    next(adapted, model).save_pretrained(str(trial.folder))

        return TrialCallback()


def _input_sizes(model: Any, layers: Mapping[str, Any], batch: Mapping[str, Any]) -> dict[str, float]:
    """Measure the RMS of the inputs of each layer in a batch, without padding."""
    import torch

    sizes: dict[str, float] = {}
    mask = batch.get("attention_mask")

    def note_size(name: str, inputs: Any) -> None:
        if mask is not None and inputs.shape[:-1] == mask.shape:
            inputs = inputs[mask.bool()]
        sizes[name] = max(_LEAST_RMS, inputs.float().square().mean().sqrt().item())

    hooks = [
        layer.register_forward_pre_hook(lambda _, inputs, name=name: note_size(name, inputs[0]))
        for name, layer in layers.items()
    ]
    was_training = model.training
    with torch.no_grad():
        model.eval()(**batch)
    model.train(was_training)
    for hook in hooks:
        hook.remove()
    return sizes

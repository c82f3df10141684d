"""`plan.yaml`: a plan and everything to train it again, for people to read and edit."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from autopeft import types
from autopeft.errors import SpecError
from autopeft.store.files import write_text
from autopeft.store.yaml import Inline, read_yaml, validate, write_yaml_text

_HEADER = """\
# A plan found by autopeft: which adapters to train at which target modules, and at which learning rate.
# Train it: {train}
# scale is alpha / r. Rank 0 means a method without ranks. Counts are in parameters.
# An adapter trains at rate_factor times the learning rate, 1 by default. The last layer of the task head
# trains at head_learning_rate, which is head_factor times the derived rate. choices are settings of your own
# trainer.
"""

_Count = Annotated[int, Field(ge=0, le=2**53)]  # that JSON readers read exactly
_Word = Annotated[str, Field(min_length=1)]
_Above0 = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _BaseModelEntry(_Strict):
    id: str | None
    revision: str | None
    quantize: Literal["none", "4bit", "8bit"] = "none"
    base_params: Annotated[int, Field(ge=1)]


class _AdapterEntry(_Strict):
    target: _Word
    method: _Word
    rank: _Count = 0
    scale: _Above0 = 1.0
    options: dict[str, types.OptionValue] = {}
    rate_factor: _Above0 = 1.0


class _PlanFile(_Strict):
    """The keys of `plan.yaml`, in their order."""

    schema_version: Literal[1]
    base_model: _BaseModelEntry
    data: types.DataSpec
    task: types.TaskSpec
    learning_rate: _Above0
    head_learning_rate: _Above0 | None = None
    schedule: _Word
    seed: Annotated[int, Field(ge=0, le=types.MAX_SEED)]
    trainable_params: _Count
    head_params: _Count
    choices: dict[_Word, types.OptionValue] = {}
    head_factor: _Above0 = 1.0
    adapters: tuple[_AdapterEntry, ...]


def write_plan(path: Path | str, document: types.PlanDocument) -> None:
    """Write `plan.yaml`, one line per adapter; raises RunDirError if it cannot be written."""
    plan, model = document.plan, document.model
    base_model = {"id": model.id, "revision": model.revision}
    base_model |= {} if model.quantize == "none" else {"quantize": model.quantize}
    content: dict[str, Any] = {
        "schema_version": 1,
        "base_model": {**base_model, "base_params": document.base_params},
        "data": types.to_json(document.data),
        "task": types.to_json(document.task),
        "learning_rate": float(plan.learning_rate),
    }
    if document.head_learning_rate is not None:
        content["head_learning_rate"] = float(document.head_learning_rate)
    content |= {
        "schedule": document.schedule,
        "seed": document.seed,
        "trainable_params": plan.trainable_params,
        "head_params": document.head_params,
    }
    if plan.choices:
        content["choices"] = dict(plan.choices)
    if plan.head_factor != 1.0:
        content["head_factor"] = plan.head_factor
    content["adapters"] = [_adapter_line(adapter) for adapter in plan.adapters]
    train = types.train_command(Path("plan.yaml"), document.model, document.data)
    if document.data.source == types.OWN_TRAINER:
        train = "pass trial.json, which is next to this file, to your training script as {trial}"
    write_text(path, _HEADER.format(train=train) + write_yaml_text(content))


def _adapter_line(adapter: types.Adapter) -> Inline:
    line = Inline(target=adapter.target, method=adapter.method, rank=adapter.rank, scale=float(adapter.scale))
    line["options"] = Inline(adapter.options)
    if adapter.rate_factor != 1.0:
        line["rate_factor"] = float(adapter.rate_factor)
    return line


def read_plan_file(path: Path) -> types.PlanDocument:
    """Read a plan from a file that `write_plan` wrote or a person edited; see `read_plan` for the errors."""
    read = validate(_PlanFile, read_yaml(path), source=str(path))
    twice = [target for target, n in Counter(entry.target for entry in read.adapters).items() if n > 1]
    if twice:
        raise SpecError(f"{path} has two adapters at {', '.join(twice)}; a target module takes one.")
    return types.PlanDocument(
        plan=types.Plan(
            adapters=tuple(
                types.Adapter(**{**dict(entry), "options": tuple(entry.options.items())})
                for entry in read.adapters
            ),
            learning_rate=read.learning_rate,
            trainable_params=read.trainable_params,
            choices=tuple(read.choices.items()),
            head_factor=read.head_factor,
        ),
        model=types.ModelSpec(**read.base_model.model_dump(exclude={"base_params"})),
        data=read.data,
        task=read.task,
        base_params=read.base_model.base_params,
        head_params=read.head_params,
        schedule=read.schedule,
        head_learning_rate=read.head_learning_rate,
        seed=read.seed,
    )

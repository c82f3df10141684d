"""`estimate`: the memory and time of a training step and of a run, from the base model's config."""

from __future__ import annotations

import logging
import re
import warnings
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch

from autopeft import adapters, estimate, model, train
from autopeft.budget import AUTO
from autopeft.errors import SpecError, UnknownNameError
from autopeft.estimate import Description, Rates, Setup, StepAnswer, StepRequest, TrainedPart
from autopeft.model import Precision
from autopeft.model.checkpoint_source import reads_images
from autopeft.model.devices import exact_products
from autopeft.plugins import discover
from autopeft.setup.derive import full_run, with_batch_and_epochs, with_max_length
from autopeft.setup.look import NAMED, load_data
from autopeft.setup.resources import labelled_tokens
from autopeft.store import read_plan
from autopeft.types import DataSpec, ModelSpec, RunSpec

_CHECKPOINTING = {"auto": None, "on": True, "off": False}
_DEVICE = re.compile(r"cpu|cuda(:\d+)?")

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class StepEstimate:
    """What is trained, how, and what it takes.

    `dtype` is bfloat16, float16 or float32; `like` names the training loop. With data the answer is for the
    longest train row. `rates` are None if the device's speed is not known; then no time is predicted.
    `n_steps` are those of a full run, None without data or --max-steps; `gpu_price` is that of an hour.
    """

    part: TrainedPart
    dtype: str
    like: str
    on_gpu: bool
    answer: StepAnswer
    n_rows: int
    max_bytes: int | None = None
    rates: Rates | None = None
    n_steps: int | None = None
    rows: RowLengths | None = None
    gpu_price: float | None = None

    @property
    def fits(self) -> bool:
        """Whether a step fits into the memory; true if that is not known."""
        return self.max_bytes is None or self.answer.step.memory.high <= self.max_bytes

    @property
    def seconds(self) -> float | None:
        """Seconds of a step of all its rows; None if the device's rates are not known."""
        typical = self.answer.typical
        return None if typical.seconds is None else typical.seconds * self.n_rows / typical.n_rows

    @property
    def run_seconds(self) -> float | None:
        """Seconds of a full run; None if the number of its steps or their time is not known."""
        return None if self.n_steps is None or self.seconds is None else self.n_steps * self.seconds

    @property
    def price(self) -> float | None:
        """The price of a full run; None if its time or the price of an hour is not known."""
        if self.run_seconds is None or self.gpu_price is None:
            return None
        return self.gpu_price * self.run_seconds / 3600


def estimate_step(
    trained: str, spec: RunSpec, *, like: str = "autopeft", accumulates: bool = False
) -> StepEstimate:
    """Predict memory and time of a training step, and find the settings that a device's memory allows.

    `trained` is a plan, a run, an adapter config, its folder, a method such as `lora_r16`, or `full`.
    `execution.device` may name a card; without `data.source` no rows are read. Task and quantization are
    those of the plan unless they are set. `like` is `autopeft` or `trainer`. With `accumulates` a
    step that does not fit is computed in micro-batches. Raises SpecError if nothing can be read or replayed,
    and UnknownNameError, DataError, ModelError or TargetError for what cannot be used.
    """
    device = (spec.execution.device or "cuda").lower()
    _check(spec, device)
    with model.quiet_libraries(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        part, base = _part_and_base(trained, spec)
        precision, rates = _computing(device, base, dtype=spec.execution.dtype)
        setup = Setup(
            model=base,
            dtype=precision.torch_dtype,
            plain_loop=like == "trainer",
            on_gpu=not device.startswith("cpu"),
            rates=rates,
        )
        describe = cache(partial(_described, part, setup))
        quantize = spec.model.quantize if "model.quantize" in spec.explicit else base.quantize
        described = describe(quantize)
        if described.count is not None and re.search("hybrid|recurrent", described.count.topology):
            text = "Replaying recurrent layers of %s can take minutes; fused kernels take less memory."
            log.info(text, described.base_model)
        rows = _rows_of(spec, base, described, setup)
        request = StepRequest(
            n_rows=rows.n_rows if rows else spec.task.batch_size,
            n_tokens=rows.longest if rows else spec.task.max_length,
            typical_tokens=rows.typical_tokens if rows else None,
            quantize=quantize,
            checkpointing=_CHECKPOINTING[spec.execution.checkpointing],
            max_bytes=_max_bytes(spec, device),
            accumulates=accumulates,
        )
        answer = estimate.answer(request, describe)
    return StepEstimate(
        part=part,
        dtype=precision.dtype,
        like=like,
        on_gpu=setup.on_gpu,
        answer=answer,
        n_rows=request.n_rows or answer.step.n_rows,
        max_bytes=request.max_bytes,
        rates=rates,
        n_steps=rows.n_steps if rows else spec.task.max_steps,
        rows=rows,
        gpu_price=spec.execution.gpu_price,
    )


def _described(part: TrainedPart, setup: Setup, quantize: str) -> Description:
    """Describe what is trained with weights in `none` (plain), `4bit` or `8bit`."""
    setup = replace(setup, model=setup.model.model_copy(update={"quantize": quantize}))
    methods, tasks = discover("autopeft.methods"), discover("autopeft.tasks")
    return estimate.describe(part, setup, methods=methods, tasks=tasks)


def _rows_of(spec: RunSpec, base: ModelSpec, described: Description, setup: Setup) -> RowLengths | None:
    """Measure the rows of a run by the task that was found; None without data."""
    if spec.data.source is None:
        return None
    task = spec.task.model_copy(update={"name": described.traced.task.name})
    return row_lengths(
        RunSpec(model=base, data=spec.data, task=task), device="cuda" if setup.on_gpu else "cpu"
    )


def _part_and_base(trained: str, spec: RunSpec) -> tuple[TrainedPart, ModelSpec]:
    """Read what is trained and its base model, with the task and components that the user set."""
    task = spec.task.name if "task.name" in spec.explicit else None
    part, base = read_trained_part(trained, model_id=spec.model.id, revision=spec.model.revision, task=task)
    return part, base.model_copy(update={"components": spec.model.components})


def _max_bytes(spec: RunSpec, device: str) -> int | None:
    """Return the memory that a step may take: `--memory`, else that of a named card."""
    card = estimate.CARDS.get(device)
    if spec.execution.memory_bytes is not None or card is None:
        return spec.execution.memory_bytes
    return int(card.gib * 2**30)


def _check(spec: RunSpec, device: str) -> None:
    """Raise for a device that does not exist, and for settings of data without data."""
    if device not in estimate.CARDS and not _DEVICE.fullmatch(device):
        hint = "Did you mean 'cuda'?" if device == "gpu" else ""  # and not cpu, which is as near
        raise UnknownNameError("device", device, ["cuda", "cpu", *estimate.CARDS], hint=hint)
    if spec.data.source is None and (spec.task.epochs is not None or spec.data != DataSpec()):
        raise SpecError("--epochs, --text-column and --label-column need --data; pass it too.")


def _computing(device: str, spec: ModelSpec, *, dtype: str) -> tuple[Precision, Rates | None]:
    """Choose the precision for `auto`, and find the device's rates: by its data sheet, else measured.

    For `cuda` on a machine without a GPU they are bfloat16 and None.
    """
    precision = None if dtype == "auto" else Precision(dtype=dtype)
    if device in estimate.CARDS:
        usual = estimate.CARDS[device].dtype
        overflows = usual == "float16" and model.overflows_in_float16(model.config_of(spec))
        precision = precision or Precision(dtype="float32" if overflows else usual)
        return precision, estimate.rates_of(device, dtype=precision.dtype)
    if device.startswith("cuda") and not torch.cuda.is_available():
        return precision or Precision(dtype="bfloat16"), None
    torch_device = model.find_device(device)
    precision = precision or model.choose_precision(model.config_of(spec), torch_device)
    with exact_products():
        return precision, estimate.measure_rates(torch_device, precision.torch_dtype)


def read_trained_part(
    trained: str, *, model_id: str | None, revision: str | None, task: str | None
) -> tuple[TrainedPart, ModelSpec]:
    """Read what is to be trained from a path or a word such as `lora_r16`, and find its base model.

    `model_id` and `revision` replace those that a plan or config names; a plan's quantization stays. `task`
    is the one that the user set, if any.

    Raises:
        SpecError: The file cannot be read, the word is not known, no base model is named, or a plan is for
            another task.
    """
    path = Path(trained)
    if not path.exists():
        part = estimate.by_name(trained, discover("autopeft.methods"))
        if model_id is None:
            raise SpecError(f"{trained} has no base model; pass --model with its id or config.json.")
        return replace(part, task=task), ModelSpec(id=model_id, revision=revision)
    if adapters.is_adapter(path):
        files = tuple(adapters.read_configs(path))
        configs = [file.config for file in files]
        base = ModelSpec() if model_id else adapters.base_model_of(configs, path=path)
        label = " and ".join(dict.fromkeys(map(adapters.type_name, configs)))
        part = TrainedPart(label=f"{label} of {path}", files=files, path=path, task=task)
    else:
        document = read_plan(path)
        base, methods = document.model, dict.fromkeys(each.method for each in document.plan.adapters)
        label = " and ".join(methods) or "the head"
        part = TrainedPart(label=f"{label} of {path}", plan=document.plan, task=document.task.name)
        if task not in (None, part.task):
            raise SpecError(f"The plan is for {part.task}, not for {task}; leave --task out.")
    if model_id is None:
        return part, base.model_copy(update={"revision": revision or base.revision})
    return part, base.model_copy(update={"id": model_id, "revision": revision})


@dataclass(frozen=True, kw_only=True)
class RowLengths:
    """What a full run reads: `n_rows` a step, `typical_tokens` per row with padding, `longest` at most.

    No row may have more than `max_length` tokens. `kind` is that of `plugins.LabelSpace`. `n_labelled` are
    the tokens that a language model learns to write; None unless the budget is `auto`.
    """

    n_rows: int
    max_length: int
    kind: str
    longest: int
    typical_tokens: int
    n_steps: int
    n_epochs: float
    n_labelled: int | None = None


def row_lengths(spec: RunSpec, *, device: str) -> RowLengths:
    """Measure the rows of a full run, encoded as by a search; settings that the user left open are derived.

    These depend on the type of the device, such as cpu. No weights of the base model are read.

    Raises:
        DataError, ModelError: The data cannot be read, or the model has no tokenizer.
    """
    task = discover("autopeft.tasks")[spec.task.name]
    loaded = load_data(spec, task.read_rows, NAMED)
    base = model.load_skeleton(spec.model, auto_class=task.auto_class)
    base.tokenizer = model.load_processor(spec.model, needs_images=reads_images(task.auto_class))
    fitted = task.fitted(spec.task, loaded.label_space, base.tokenizer)

    spec, of_length = with_max_length(spec, loaded.train, base, fitted, device=device)
    rows = loaded.joined("train", "search")
    encoded = train.encode_split(rows, base=base, task=fitted, max_length=spec.task.max_length)
    spec, of_steps = with_batch_and_epochs(spec, encoded, fitted.defaults, device=device)
    for decision in (*of_length, *of_steps):
        log.info("%s", decision)
    n_rows, n_steps = full_run(spec.task, len(encoded.labels))
    steps = train.train_rows(encoded.lengths, n_steps=train.TYPICAL_STEPS, batch_size=n_rows, seed=0)
    padded = [train.padded_tokens(step, encoded.lengths) for step in steps]
    return RowLengths(
        n_rows=n_rows,
        max_length=spec.task.max_length or encoded.longest,
        kind=loaded.label_space.kind,
        longest=encoded.longest,
        typical_tokens=round(float(np.mean(padded)) / n_rows),
        n_steps=n_steps,
        n_epochs=n_steps * n_rows / len(encoded.labels),
        n_labelled=labelled_tokens(fitted, encoded) if spec.budget.requested == AUTO else None,
    )

"""`estimate`: the memory and time of a training step and of a run, from the base model's config alone."""

from __future__ import annotations

import warnings
from collections.abc import Collection
from dataclasses import replace
from functools import cache

import torch

from autopeft import estimate, model
from autopeft.adapters import Count
from autopeft.errors import SpecError, UnknownNameError
from autopeft.estimate import Rates, StepAnswer, StepRequest, Trainee, TraineeOnModel
from autopeft.extension import discover
from autopeft.model import Precision
from autopeft.pipeline.allowance import usual_cost
from autopeft.pipeline.estimate_request import (
    DTYPES,
    SWITCH,
    EstimateRequest,
    RunEstimate,
    StepEstimate,
    check_request,
)
from autopeft.pipeline.estimate_trainee import read_trainee
from autopeft.pipeline.row_lengths import RowLengths, row_lengths
from autopeft.records import ModelSpec, TaskSpec
from autopeft.store import parse_bytes


def estimate_step(
    request: EstimateRequest,
    *,
    rates: Rates | None = None,
    max_kernels: int | None = None,
    counted: Count | None = None,
) -> StepEstimate:
    """The memory and time of a training step, and the settings that a device's memory allows.

    `rates` stand in for those of the device. `max_kernels` limits each replay of a step. `counted` is the
    count of what is trained, where it is known.

    Raises:
        UntoldStepError: A step cannot be replayed, or not within `max_kernels`.
        SpecError: A setting out of range, a file that cannot be read, or no base model.
        DataError, ModelError: The data, the tokenizer or the device cannot be used.
        SiteError: The configs do not fit the model.
    """
    check_request(request)
    request = replace(request, device=request.device.lower())
    on_gpu = not request.device.startswith("cpu")
    max_bytes = _device_bytes(request)
    methods, tasks = discover("autopeft.methods"), discover("autopeft.tasks")
    with model.quiet_libraries(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainee, spec = read_trainee(request.trained, model_id=request.model_id, revision=request.revision)
        trainee = _with_task(trainee, request.run.task, known=tasks)
        precision = _precision(request, spec)
        dtype = precision.dtype
        rates = rates or _rates(request.device, precision)

        @cache
        def describe(quantize: str) -> TraineeOnModel:
            setup = estimate.Setup(
                model=spec.model_copy(update={"quantize": quantize}),
                dtype=getattr(torch, dtype),
                plain_loop=request.like == "trainer",
                on_gpu=on_gpu,
                rates=rates,
                max_kernels=max_kernels,
            )
            return estimate.describe(trainee, setup, methods=methods, tasks=tasks, counted=counted)

        quantize = request.quantize or spec.quantize
        rows = _rows(request, spec, task=describe(quantize).task)
        step_request = StepRequest(
            n_rows=rows.n_rows if rows else request.batch_size,
            n_tokens=rows.longest if rows else request.max_length,
            typical_tokens=rows.typical_tokens if rows else None,
            quantize=quantize,
            checkpointing=SWITCH[request.checkpointing],
            max_bytes=max_bytes,
        )
        answer = estimate.answer(step_request, describe)
    n_steps = rows.n_steps if rows else request.run.max_steps
    return StepEstimate(
        trainee=trainee,
        dtype=dtype,
        like=request.like,
        on_gpu=on_gpu,
        answer=answer,
        rates=rates,
        run=_run(answer, n_steps, price=request.run.price),
    )


def _with_task(trainee: Trainee, task: str | None, *, known: Collection[str]) -> Trainee:
    """The trainee with the task that the user named, which a plan must have too."""
    if task is None:
        return trainee
    if task not in known:
        raise UnknownNameError("task", task, sorted(known))
    if trainee.task not in (None, task):
        raise SpecError(f"--task is {task}, but the plan is for {trainee.task}; leave --task out.")
    return replace(trainee, task=task)


def _device_bytes(request: EstimateRequest) -> int | None:
    """The memory that the user named, or that of the card."""
    if request.memory is not None:
        return parse_bytes(request.memory)
    card = estimate.CARDS.get(request.device)
    return None if card is None else int(card.gib * 2**30)


def _precision(request: EstimateRequest, spec: ModelSpec) -> Precision:
    """How the model would compute: as a search does on the card or on this machine, else in bfloat16."""
    card = estimate.CARDS.get(request.device)
    if request.dtype != "auto" or (card is None and _is_elsewhere(request.device)):
        return Precision(dtype=DTYPES[request.dtype])
    if card is not None:
        return Precision(dtype=card.dtype)
    return model.choose_precision(model.config_of(spec), model.find_device(request.device))


def _is_elsewhere(device: str) -> bool:
    """Whether a device is a GPU, and this machine has none."""
    return device.startswith("cuda") and not torch.cuda.is_available()


def _rates(device: str, precision: Precision) -> Rates | None:
    """The rates of a card, or of this machine's device, measured; None for a GPU that is not here."""
    if device in estimate.CARDS:
        return estimate.rates_of(device)
    if _is_elsewhere(device):
        return None
    place = model.find_device(device)
    with precision.multiplying():
        return estimate.probe(place, precision.torch_dtype)


def _rows(request: EstimateRequest, spec: ModelSpec, *, task: str) -> RowLengths | None:
    run = request.run
    if run.data is None:
        return None
    return row_lengths(
        spec,
        run.data,
        task=TaskSpec(
            name=task,
            batch_size=request.batch_size,
            max_length=request.max_length,
            epochs=run.epochs,
            max_steps=run.max_steps,
        ),
        device="cpu" if request.device.startswith("cpu") else "cuda",
    )


def _run(answer: StepAnswer, n_steps: int | None, *, price: float | None) -> RunEstimate | None:
    if n_steps is None or answer.typical.seconds is None:
        return None
    return RunEstimate(
        n_steps=n_steps,
        seconds=n_steps * answer.typical.seconds,
        search_runs=usual_cost(n_steps),
        price=price,
    )

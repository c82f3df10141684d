"""`estimate`: what a training step takes of a device's memory, from the base model's config alone."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from autopeft import adapters, estimate, model
from autopeft.errors import SpecError
from autopeft.estimate import Answer, Described, Target, Wish
from autopeft.extension import discover
from autopeft.records import ModelSpec
from autopeft.store import parse_bytes, read_plan

_DTYPES = {"auto": "bfloat16", "bfloat16": "bfloat16", "float32": "float32"}
_SWITCH = {"auto": None, "on": True, "off": False}
_LOOPS = ("autopeft", "trainer")
_BITS = ("none", "4bit", "8bit")


@dataclass(frozen=True, kw_only=True)
class EstimateRequest:
    """What to estimate: the argument and flags of the command, as the user typed them.

    `trained` is a plan, a run, an adapter config, its folder, a method such as `lora_r16`, or `full`.
    """

    trained: str
    model_id: str | None = None
    revision: str | None = None
    batch_size: int | None = None
    max_length: int | None = None
    dtype: str = "auto"
    quantize: str | None = None
    checkpointing: str = "auto"
    like: str = "autopeft"
    device: str = "cuda"
    memory: str | None = None


@dataclass(frozen=True, kw_only=True)
class StepEstimate:
    """What is trained, how, and what it takes; `dtype` is bfloat16 or float32, `like` names the loop."""

    target: Target
    dtype: str
    like: str
    on_gpu: bool
    answer: Answer


def estimate_step(request: EstimateRequest) -> StepEstimate:
    """The memory of a training step, and the settings that a device's memory allows.

    Raises:
        SpecError: A setting out of range, a file that cannot be read, or no base model.
        SiteError: The configs do not fit the model.
    """
    _check(request)
    max_bytes = None if request.memory is None else parse_bytes(request.memory)
    methods, tasks = discover("autopeft.methods"), discover("autopeft.tasks")
    with model.quiet_libraries(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        target, spec = read_target(request.trained, model_id=request.model_id, revision=request.revision)
        dtype, on_gpu = _DTYPES[request.dtype], not request.device.startswith("cpu")

        @cache
        def describe(quantize: str) -> Described:
            setup = estimate.Setup(
                model=spec.model_copy(update={"quantize": quantize}),
                dtype=getattr(torch, dtype),
                plain_loop=request.like == "trainer",
                on_gpu=on_gpu,
            )
            return estimate.describe(target, setup, methods=methods, tasks=tasks)

        wish = Wish(
            n_rows=request.batch_size,
            n_tokens=request.max_length,
            quantize=request.quantize or spec.quantize,
            checkpointing=_SWITCH[request.checkpointing],
            max_bytes=max_bytes,
        )
        answer = estimate.answer(wish, describe)
    return StepEstimate(target=target, dtype=dtype, like=request.like, on_gpu=on_gpu, answer=answer)


def compare_steps(
    words: Sequence[str], *, model_id: str | None, revision: str | None
) -> dict[str, StepEstimate]:
    """The usual step of several targets on one base model, which the first may name.

    Raises what `estimate_step` raises.
    """
    if model_id is None:
        model_id = read_target(words[0], model_id=None, revision=revision)[1].id
    requests = [EstimateRequest(trained=word, model_id=model_id, revision=revision) for word in words]
    return {request.trained: estimate_step(request) for request in requests}


def memory_of_step(path: Path, *, model_id: str | None, revision: str | None) -> StepEstimate | None:
    """The usual step of a plan or configs; None for models and configs whose memory cannot be told."""
    try:
        return estimate_step(EstimateRequest(trained=str(path), model_id=model_id, revision=revision))
    except SpecError:
        return None


def read_target(trained: str, *, model_id: str | None, revision: str | None) -> tuple[Target, ModelSpec]:
    """What a path or a word names, and the base model, which a plan or a config may name.

    Raises SpecError for a file that cannot be read, an unknown word, or no base model.
    """
    path, spec = Path(trained), ModelSpec(id=model_id, revision=revision)
    if not path.exists():
        target = estimate.by_name(trained, discover("autopeft.methods"))
        if model_id is None:
            raise SpecError(
                f"{trained} says nothing of a base model; pass --model with its id or config.json."
            )
        return target, spec
    if adapters.is_adapter(path):
        files = tuple(adapters.read_configs(path))
        configs = [file.config for file in files]
        named = spec if model_id else adapters.base_model_of(configs, path=path)
        label = " and ".join(dict.fromkeys(map(adapters.type_name, configs)))
        return Target(label=f"{label} of {path}", files=files, path=path), named
    document = read_plan(path)
    label = " and ".join(dict.fromkeys(adapter.method for adapter in document.plan.adapters)) or "the head"
    named = (
        document.model if model_id is None else spec.model_copy(update={"quantize": document.model.quantize})
    )
    return Target(label=f"{label} of {path}", plan=document.plan, task=document.task.name), named


def _check(request: EstimateRequest) -> None:
    """Refuse words and numbers that a flag does not take."""
    words = {
        "--dtype": (request.dtype, tuple(_DTYPES)),
        "--quantize": (request.quantize or "none", _BITS),
        "--checkpointing": (request.checkpointing, tuple(_SWITCH)),
        "--like": (request.like, _LOOPS),
    }
    faults = [
        f"{flag} is {value!r}, it should be {' or '.join(known)}"
        for flag, (value, known) in words.items()
        if value not in known
    ]
    numbers = {"--batch-size": (request.batch_size, 1), "--max-length": (request.max_length, 2)}
    faults += [
        f"{flag} is {value}, it should be at least {least}"
        for flag, (value, least) in numbers.items()
        if value is not None and value < least
    ]
    if faults:
        raise SpecError(f"{'; '.join(faults)}.")

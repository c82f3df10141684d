"""`count`: what a path or a word names trains, and the usual training step of it where that can be told."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from autopeft import adapters, estimate, model
from autopeft.errors import SpecError
from autopeft.estimate import Rates, Trainee, TraineeOnModel
from autopeft.extension import discover
from autopeft.model import BaseModel
from autopeft.pipeline.counting import Count, count
from autopeft.pipeline.estimate_request import EstimateRequest, StepEstimate
from autopeft.pipeline.estimate_trainee import read_trainee
from autopeft.pipeline.estimating import estimate_step
from autopeft.records import ModelSpec

COMPARED_ON = "a100-80gb"  # the card whose step times are compared; chosen by hand
_FULL_BYTES = 2  # of a weight in bfloat16, in which full fine-tuning is estimated


@dataclass(frozen=True, kw_only=True)
class Counted:
    """The trainable parameters of a trainee, and its usual training step.

    `step` is None where its memory cannot be told, and `reason` says why. `servers` are as `Trainee.servers`
    gives them.
    """

    count: Count
    servers: tuple[str, ...] | None
    is_full: bool
    step: StepEstimate | None = None
    reason: str = ""


def count_steps(words: Sequence[str], *, model_id: str | None, revision: str | None) -> dict[str, Counted]:
    """Several trainees on one base model, which the first may name, by their words; timed on one card.

    Raises what `count_step` raises.
    """
    rates, (first, *others) = estimate.rates_of(COMPARED_ON), words
    _, named = read_trainee(first, model_id=model_id, revision=revision)
    # A plan of the demo model names none.
    other_id = named.id or model.DEMO_HUB_ID
    for word in others:  # an unknown one is refused before a model is built
        read_trainee(word, model_id=other_id, revision=named.revision)
    compared = {first: count_step(first, model_id=model_id, revision=revision, rates=rates)}
    for word in others:
        compared[word] = count_step(word, model_id=other_id, revision=named.revision, rates=rates)
    return compared


def count_step(
    word: str,
    *,
    model_id: str | None,
    revision: str | None,
    rates: Rates | None = None,
    max_kernels: int = estimate.SLOW_KERNELS,
) -> Counted:
    """What a plan, a run, configs or a word such as `lora_r16` or `full` trains; `rates` time its step.

    A step whose replay takes more than `max_kernels` is left out, with a note.

    Raises:
        SpecError: A file that cannot be read, an unknown word, or no base model.
        SiteError: The trainee does not fit the model.
    """
    trainee, spec = read_trainee(word, model_id=model_id, revision=revision)
    counted = None
    if trainee.method is None and not trainee.is_full:  # first, since it checks the plan
        counted = count(Path(word), model_id=model_id, revision=revision)
        servers = trainee.servers(trainee.plan, discover("autopeft.methods"))
    step, described, reason = None, None, ""
    notes: tuple[str, ...] = ()
    request = EstimateRequest(trained=word, model_id=model_id, revision=revision)
    try:
        step = estimate_step(request, rates=rates, max_kernels=max_kernels, counted=counted)
        described = step.answer.described
    except estimate.UntoldStepError as error:
        described, reason = error.described, str(error)
        notes = (reason,) if error.is_slow else ()
    except SpecError as error:  # a fault of the trainee or the model is raised again below
        reason = str(error)
    if counted is None:
        counted, servers = _count_word(trainee, spec, described)
    counted = replace(counted, notes=(*counted.notes, *notes))
    return Counted(count=counted, servers=servers, is_full=trainee.is_full, step=step, reason=reason)


def _count_word(
    trainee: Trainee, spec: ModelSpec, described: TraineeOnModel | None
) -> tuple[Count, tuple[str, ...] | None]:
    """The count of the whole model, or of a method at all sites; its servers."""
    if described is not None:
        whole = _whole(described.base_model, described, trainee)
        return described.count or whole, described.servers
    methods = discover("autopeft.methods")
    with model.quiet_libraries(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        base = model.load_skeleton(spec, auto_class=None)  # its batches are not known, it has no task here
        if trainee.is_full:
            return _whole(base.name, base, trainee), trainee.servers(None, methods)
        plan = trainee.on(base, methods)
        counted = adapters.count_plan(plan, base, methods, task_type=None)
        return replace(counted, notes=(*counted.notes, *base.remarks)), trainee.servers(plan, methods)


def _whole(name: str, base: BaseModel | TraineeOnModel, trainee: Trainee) -> Count:
    return Count(
        base_model=name,
        methods=(trainee.label,),
        trainable_params=base.base_params,
        head_params=base.head_params,
        base_params=base.base_params,
        adapter_bytes=_FULL_BYTES * base.base_params,
        by_role={},
        by_layer={},
        sites={},
        ranks={},
    )

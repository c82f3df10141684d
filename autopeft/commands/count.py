"""`count` and `methods --model`: what is trained, and what fits, by the base model's config alone."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from autopeft import adapters, estimate, model
from autopeft.adapters import Count
from autopeft.commands.estimate import EstimateRequest, StepEstimate, estimate_step, read_trained_part
from autopeft.errors import SpecError
from autopeft.estimate import Description, Rates, TrainedPart
from autopeft.extension import Method, discover
from autopeft.model import BaseModel
from autopeft.records import ModelSpec
from autopeft.run.prepare import methods_for
from autopeft.store import read_plan

COMPARED_ON = "a100-80gb"  # the card whose step times are compared; chosen by hand
_FULL_BYTES = 2  # of a weight in bfloat16, in which full fine-tuning is estimated


def count(path: Path, *, model_id: str | None = None, revision: str | None = None) -> Count:
    """Count what a plan, a run's best plan, or any `adapter_config.json` would train.

    Args:
        path: plan.yaml, a run directory, an adapter_config.json, or a folder of these.
        model_id: Hub id, or directory with a `config.json`; None takes the base model that `path` names.
        revision: Revision of the hub model.

    Raises:
        SpecError: `path` cannot be read, or no base model is named.
        SiteError: The config does not fit the model.
    """
    methods = discover("autopeft.methods")  # one of them may register its own type with `peft`
    with model.quiet_libraries(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the notes say what `peft` warns of while it attaches
        part, spec = read_trained_part(str(path), model_id=model_id, revision=revision)
        if part.files:
            auto_class = adapters.auto_class_of([file.config for file in part.files])
            base = model.load_skeleton(spec, auto_class=auto_class)
            base.module.to(getattr(base.module.config, "dtype", None) or torch.float32)  # as it is loaded
            return adapters.count_configs(part.files, base, path=path)
        document = read_plan(path)
        task = discover("autopeft.tasks")[document.task.name]
        base = _with_head(spec, auto_class=task.auto_class, head_params=document.head_params)
        base.module.float()  # as plans are trained
        adapters.check_plan(document.plan, base, methods)
        counted = adapters.count_plan(document.plan, base, methods, task_type=task.peft_task_type)
    if model_id:
        return counted
    # A plan trains with its head what the weights lack, such as a pooler, and a config does not tell that.
    n_more = max(0, document.head_params - counted.head_params)
    n_bytes = counted.adapter_bytes + n_more * torch.float32.itemsize  # as heads are trained
    return replace(counted, head_params=counted.head_params + n_more, adapter_bytes=n_bytes)


def _with_head(spec: ModelSpec, *, auto_class: str, head_params: int) -> BaseModel:
    """Load the skeleton whose head has so many parameters; a plan does not say for how many labels it is.

    Heads grow by the same number with every label. If no number of labels fits, the head is the usual one.
    """
    base = model.load_skeleton(spec, auto_class=auto_class)
    n_labels = getattr(base.module.config, "num_labels", None)
    if not base.head_params or not n_labels or base.head_params == head_params:
        return base
    larger = model.load_skeleton(spec, auto_class=auto_class, n_labels=n_labels + 1)
    label_params = larger.head_params - base.head_params
    n_more, remainder = divmod(head_params - base.head_params, label_params) if label_params else (0, 1)
    if remainder or n_labels + n_more < 1:
        return base
    return model.load_skeleton(spec, auto_class=auto_class, n_labels=n_labels + n_more)


@dataclass(frozen=True, kw_only=True)
class Counted:
    """The trainable parameters of a trained part, and its usual training step.

    `step` is None if its memory is not known, and `reason` says why. `servers` are as
    `TrainedPart.servers` gives them.
    """

    count: Count
    servers: tuple[str, ...] | None
    is_full: bool
    step: StepEstimate | None = None
    reason: str = ""


def count_steps(words: Sequence[str], *, model_id: str | None, revision: str | None) -> dict[str, Counted]:
    """Count several trained parts on one base model, which the first may name, and time them on one card.

    Raises what `count_step` raises.
    """
    rates = estimate.rates_of(COMPARED_ON)
    _, base = read_trained_part(words[0], model_id=model_id, revision=revision)
    base_id = base.id or model.DEMO_HUB_ID  # a plan of the demo model names none
    for word in words[1:]:  # an unknown one is refused before a model is built
        read_trained_part(word, model_id=base_id, revision=base.revision)
    compared = {words[0]: count_step(words[0], model_id=model_id, revision=revision, rates=rates)}
    for word in words[1:]:
        compared[word] = count_step(word, model_id=base_id, revision=base.revision, rates=rates)
    return compared


def count_step(
    word: str,
    *,
    model_id: str | None,
    revision: str | None,
    rates: Rates | None = None,
    max_kernels: int = estimate.SLOW_KERNELS,
) -> Counted:
    """Count what a plan, a run, configs or a word such as `lora_r16` or `full` trains; `rates` time its step.

    A step whose replay takes more than `max_kernels` is left out, with a note.

    Raises:
        SpecError: A file that cannot be read, an unknown word, or no base model.
        SiteError: What is trained does not fit the model.
    """
    part, spec = read_trained_part(word, model_id=model_id, revision=revision)
    counted = None
    if part.method is None and not part.is_full:  # before the estimate, since it checks the plan
        counted = count(Path(word), model_id=model_id, revision=revision)
        servers = part.servers(part.plan, discover("autopeft.methods"))
    step, described, reason = None, None, ""
    notes: tuple[str, ...] = ()
    request = EstimateRequest(trained=word, model_id=model_id, revision=revision)
    try:
        step = estimate_step(request, rates=rates, max_kernels=max_kernels, counted=counted)
        described = step.answer.described
    except estimate.UnknownStepError as error:
        described, reason = error.described, str(error)
        notes = (reason,) if error.is_slow else ()
    except SpecError as error:  # a fault of what is trained or of the model is raised again below
        reason = str(error)
    if counted is None and described is not None:
        counted, servers = described.count or _whole(described, part), described.servers
    elif counted is None:
        counted, servers = _count_word(part, spec)
    counted = replace(counted, notes=(*counted.notes, *notes))
    return Counted(count=counted, servers=servers, is_full=part.is_full, step=step, reason=reason)


def _count_word(part: TrainedPart, spec: ModelSpec) -> tuple[Count, tuple[str, ...] | None]:
    """Count the whole model, or a method at all sites, and find its servers."""
    methods = discover("autopeft.methods")
    with model.quiet_libraries(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        base = model.load_skeleton(spec, auto_class=None)  # its batches are not known, it has no task here
        if part.is_full:
            return _whole(base, part), part.servers(None, methods)
        plan = part.on(base, methods)
        counted = adapters.count_plan(plan, base, methods, task_type=None)
        return replace(counted, notes=(*counted.notes, *base.remarks)), part.servers(plan, methods)


def _whole(base: BaseModel | Description, part: TrainedPart) -> Count:
    return Count(
        base_model=base.name if isinstance(base, BaseModel) else base.base_model,
        methods=(part.label,),
        trainable_params=base.base_params,
        head_params=base.head_params,
        base_params=base.base_params,
        adapter_bytes=_FULL_BYTES * base.base_params,
        by_role={},
        by_layer={},
        sites={},
        ranks={},
    )


@dataclass(frozen=True, kw_only=True)
class MethodsOnModel:
    """The installed methods on one base model; `n_sites` says at how many sites each of them fits."""

    base_model: str
    hidden_size: int
    methods: Mapping[str, Method]
    n_sites: Mapping[str, int]


def methods_on(model_id: str) -> MethodsOnModel:
    """Find the methods with the learning rates that a search on this base model would try.

    Args:
        model_id: Hub id, or directory with a `config.json`; weights are not needed.

    Raises:
        ModelError: The config cannot be read.
    """
    with model.quiet_libraries():
        base = model.load_skeleton(ModelSpec(id=model_id), auto_class=None)
    base.log_remarks()
    methods = methods_for(base)
    return MethodsOnModel(
        base_model=base.name,
        hidden_size=base.hidden_size,
        methods=methods,
        n_sites={
            name: sum(method.refusal(site) is None for site in base.sites) for name, method in methods.items()
        },
    )

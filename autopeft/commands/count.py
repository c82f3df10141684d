"""`count`: how many parameters are trained, from the base model's config."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import torch

from autopeft import adapters, estimate, model
from autopeft.adapters import Count
from autopeft.commands.estimate import read_trained_part
from autopeft.errors import SpecError
from autopeft.plugins import discover
from autopeft.store import read_plan
from autopeft.types import Component


def count(
    trained: Path | str,
    *,
    model_id: str | None = None,
    revision: str | None = None,
    components: tuple[Component, ...] = (),
    task: str | None = None,
) -> Count:
    """Count the parameters that a plan, a run's best plan, a peft config or a method trains.

    A method, such as `lora_r16`, is counted at the target modules of `components`, by
    default those that the topology of the model suggests. `model_id` is a hub id, or a directory
    with a `config.json`; None uses the base model that the file names. `task` names the class that
    is built; without, it is that of the plan, of the adapter config or of the model's config.

    Raises:
        SpecError: A file that cannot be read, an unknown word, no base model, or the word `full`.
        TargetError: What is trained does not fit the model.
    """
    path, methods = Path(trained), discover("autopeft.methods")  # one may register its own type with `peft`
    with model.quiet_libraries(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what `peft` warns of while it attaches is in the notes
        part, spec = read_trained_part(str(trained), model_id=model_id, revision=revision, task=task)
        if part.is_full:
            raise SpecError("full trains all weights; `autopeft estimate full` prints what that takes.")
        if components and part.method is None:
            raise SpecError(f"{trained} names its modules; --components is for a method such as lora_r16.")
        spec, tasks = spec.model_copy(update={"components": components}), discover("autopeft.tasks")
        built = estimate.build_base(spec, task=part.task, files=part.files, tasks=tasks)
        base, task_type = built.base, None if built.task is None else built.task.peft_task_type
        if part.files:
            base.module.to(getattr(base.module.config, "dtype", None) or torch.float32)  # as it is loaded
            counted = adapters.count_configs(part.files, base, path=path)
        elif part.method is not None:
            counted = estimate.count_part(part, part.on(base, methods), base, methods, task_type=task_type)
        else:
            document = read_plan(path)
            base.module.float()  # as plans are trained
            adapters.check_plan(document.plan, base, methods)
            counted = adapters.count_plan(document.plan, base, methods, task_type=task_type)
    if part.plan is None:
        return replace(counted, notes=(*counted.notes, *built.notes))
    if model_id:
        return counted
    # A plan counts its labels, and what the checkpoint does not have, such as a pooler; a config does not.
    n_more = document.head_params - counted.head_params
    n_bytes = counted.adapter_bytes + n_more * torch.float32.itemsize  # as heads are trained
    return replace(counted, head_params=counted.head_params + n_more, adapter_bytes=n_bytes)

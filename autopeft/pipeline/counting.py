"""`count`: what a plan or an adapter config would train, computed from the base model's config alone."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import torch

from autopeft import adapters, model
from autopeft.adapters import Count
from autopeft.extension import discover
from autopeft.model import BaseModel
from autopeft.records import ModelSpec
from autopeft.store import read_plan

__all__ = ["Count", "count"]


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
    discover("autopeft.methods")  # a method may register its own type with `peft`
    with model.quiet_libraries(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the notes say what `peft` warns of while it attaches
        if adapters.is_adapter(path):
            return _count_configs(path, model_id=model_id, revision=revision)
        return _count_plan(path, model_id=model_id, revision=revision)


def _count_plan(path: Path, *, model_id: str | None, revision: str | None) -> Count:
    document = read_plan(path)
    spec = _model_spec(document.model, model_id=model_id, revision=revision)
    task, methods = discover("autopeft.tasks")[document.task.name], discover("autopeft.methods")
    base = _with_head(spec, auto_class=task.auto_class, head_params=document.head_params)
    base.module.float()  # as plans are trained
    adapters.check_plan(document.plan, base, methods)
    counted = adapters.count_plan(document.plan, base, methods, task_type=task.peft_task_type)
    return counted if model_id else _with_lacking(counted, head_params=document.head_params)


def _with_lacking(counted: Count, *, head_params: int) -> Count:
    """The count with the head of the plan where that is larger than the head of the model's config.

    A plan trains with its head what the weights lack, such as a pooler, and a config does not tell that.
    """
    n_more = max(0, head_params - counted.head_params)
    n_bytes = counted.adapter_bytes + n_more * torch.float32.itemsize  # as heads are trained
    return replace(counted, head_params=counted.head_params + n_more, adapter_bytes=n_bytes)


def _with_head(spec: ModelSpec, *, auto_class: str, head_params: int) -> BaseModel:
    """The skeleton whose head has so many parameters; a plan does not say for how many labels it is.

    Heads grow by the same number with every label. The usual head where no number of labels fits.
    """
    base = model.load_skeleton(spec, auto_class=auto_class)
    n_labels = getattr(base.module.config, "num_labels", None)
    if not base.head_params or not n_labels or base.head_params == head_params:
        return base
    larger = model.load_skeleton(spec, auto_class=auto_class, n_labels=n_labels + 1)
    label_params = larger.head_params - base.head_params
    n_more, rest = divmod(head_params - base.head_params, label_params) if label_params else (0, 1)
    if rest or n_labels + n_more < 1:
        return base
    return model.load_skeleton(spec, auto_class=auto_class, n_labels=n_labels + n_more)


def _count_configs(path: Path, *, model_id: str | None, revision: str | None) -> Count:
    files = adapters.read_configs(path)
    configs = [file.config for file in files]
    named = ModelSpec() if model_id else adapters.base_model_of(configs, path=path)
    spec = _model_spec(named, model_id=model_id, revision=revision)
    base = model.load_skeleton(spec, auto_class=adapters.auto_class_of(configs))
    base.module.to(getattr(base.module.config, "dtype", None) or torch.float32)  # as transformers loads it
    return adapters.count_configs(files, base, path=path)


def _model_spec(named: ModelSpec, *, model_id: str | None, revision: str | None) -> ModelSpec:
    """The named base model; `model_id` and `revision` replace its id and revision, not its quantisation."""
    if model_id is None:
        return named.model_copy(update={"revision": revision or named.revision})
    return named.model_copy(update={"id": model_id, "revision": revision})

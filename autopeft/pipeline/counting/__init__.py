"""`count`: what a plan or an adapter config would train, told from the model's config alone.

Inside the folder each file imports only from those before it:
values → sources, skeleton → fit → tally → __init__.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
import transformers
from peft import PeftConfig

from autopeft import model, train
from autopeft.errors import SpecError
from autopeft.extension import discover
from autopeft.model import BaseModel, holder_of
from autopeft.pipeline.counting import skeleton, sources, tally
from autopeft.pipeline.counting.fit import attach_fitting
from autopeft.pipeline.counting.tally import Count
from autopeft.pipeline.prepare import check_plan, quiet_libraries
from autopeft.records import ModelSpec, PlanDocument
from autopeft.store import read_plan

__all__ = ["Count", "count"]

_AUTO_CLASSES = {
    "SEQ_CLS": "AutoModelForSequenceClassification",
    "TOKEN_CLS": "AutoModelForTokenClassification",
    "CAUSAL_LM": "AutoModelForCausalLM",
    "SEQ_2_SEQ_LM": "AutoModelForSeq2SeqLM",
    "QUESTION_ANS": "AutoModelForQuestionAnswering",
    "FEATURE_EXTRACTION": "AutoModel",
}


def count(path: Path, *, model_id: str | None = None, revision: str | None = None) -> Count:
    """Count what a plan, a run's best plan, or any `adapter_config.json` would train.

    Args:
        path: plan.yaml, a run directory, an adapter_config.json, or a folder of these.
        model_id: Hub id or directory that holds `config.json`; None takes the plan's own.
        revision: Of the hub's model.

    Raises:
        SpecError: Nothing readable there, or no model to count on.
        SiteError: The config does not fit the model.
    """
    discover("autopeft.methods")  # parts may teach peft a type of their own
    with quiet_libraries(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what peft warns of when it attaches is told as notes
        if sources.is_adapter(path):
            return _count_configs(path, model_id=model_id, revision=revision)
        return _count_plan(read_plan(path), model_id=model_id, revision=revision)


def _count_plan(document: PlanDocument, *, model_id: str | None, revision: str | None) -> Count:
    own = document.model
    spec = ModelSpec(
        id=model_id or own.id,
        revision=revision or (own.revision if model_id is None else None),
        quantize=own.quantize,
    )
    task = discover("autopeft.tasks")[document.task.name]
    methods = discover("autopeft.methods")
    base = model.load_skeleton(spec, auto_class=task.auto_class)
    base.module.float()  # as plans are trained
    check_plan(document.plan, base, methods)
    configs = train.compile_plan(document.plan, methods)
    names = tuple(dict.fromkeys(adapter.method for adapter in document.plan.adapters)) or ("head",)
    notes = [note for config in configs for note in skeleton.remarks(config)]
    if all(map(skeleton.attaches_without_weights, configs)):
        for config in configs:
            skeleton.spare(config)
        lent = base.attached(configs, plan=document.plan, task_type=task.peft_task_type, seed=0)
        with torch.device("meta"), lent as borrowed:
            skeleton.complete(borrowed)
            holders = [holder_of(borrowed, name) for name in model.adapter_names(configs)]
            beneath = next((holder for holder in holders if holder is not borrowed), None)
            attached = skeleton.Attached(model=borrowed, beneath=beneath)
            return tally.tally(attached, base, methods=names, notes=notes)
    forward = configs[-1] if configs[-1].is_prompt_learning else configs[0]  # it keeps the head
    forward.task_type, forward.modules_to_save = task.peft_task_type, list(base.head_names) or None
    return tally.tally(skeleton.attach(base, configs), base, methods=names, notes=notes)


def _count_configs(path: Path, *, model_id: str | None, revision: str | None) -> Count:
    found = [sources.read_config(folder) for folder in sources.config_folders(path)]
    configs = [source.config for source in found]
    base = _base_of(configs, path=path, model_id=model_id, revision=revision)
    modules = [name for name, _ in base.module.named_modules() if name]
    attached = attach_fitting(found, base, path=path)
    with skeleton.fitting(path, base.name):
        notes = []
        targets = skeleton.targets(attached)
        for source, name in zip(found, model.adapter_names(configs), strict=True):
            notes += sources.unknown_keys(source)
            notes += sources.unmatched(source, targets.get(name, ()), modules=modules)
            notes += skeleton.remarks(source.config)
        methods = tuple(dict.fromkeys(str(config.peft_type.value).lower() for config in configs))
        return tally.tally(attached, base, methods=methods, notes=notes)


def _base_of(
    configs: Sequence[PeftConfig], *, path: Path, model_id: str | None, revision: str | None
) -> BaseModel:
    """The skeleton that configs are for, in the precision in which transformers would load it."""
    own = next((config for config in configs if config.base_model_name_or_path), configs[0])
    named = model_id or own.base_model_name_or_path
    if not named or not isinstance(named, str):
        raise SpecError(f"{path} does not say which base model it is for; pass --model.")
    if model_id is None:
        revision = revision or own.revision
    base = model.load_skeleton(ModelSpec(id=named, revision=revision), auto_class=class_of(configs))
    base.module.to(getattr(base.module.config, "dtype", None) or torch.float32)
    return base


def class_of(configs: Sequence[PeftConfig]) -> str | None:
    """What to build: by the task, else the class that `peft` saw; None leaves it to the model's config."""
    tasks = [getattr(config.task_type, "value", config.task_type) for config in configs]
    seen = [(config.auto_mapping or {}).get("base_model_class") for config in configs]
    known = [_AUTO_CLASSES[task] for task in tasks if task in _AUTO_CLASSES]
    return next((name for name in (*known, *seen) if name and hasattr(transformers, name)), None)

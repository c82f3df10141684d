"""`apply`: a plan's adapters on a model that the user has in memory."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import transformers
from peft import PeftModel
from torch import nn

from autopeft import model, train
from autopeft.extension import Method, discover
from autopeft.model import BaseModel
from autopeft.pipeline.prepare import check_plan
from autopeft.records import Plan, PlanDocument

log = logging.getLogger(__name__)


def apply(plan: Plan | PlanDocument, module: nn.Module, *, seed: int = 0) -> PeftModel:
    """A model with a plan's adapters attached, to be trained by one's own loop.

    What trains then are the adapters and the task head, nothing else; the plan's learning rate is
    for the adapters. `module` itself is changed, as by `peft`, and left as it was where this raises.

    Args:
        plan: A plan, alone or with what it remembers.
        module: The base model that it was made for, or one of the same shape; a transformers model.
        seed: Decides the adapters' first values.

    Raises:
        ModelError: The module is no transformers model in float32, or has adapters already.
        SiteError: An adapter does not fit the model, or `peft` attached another number of parameters.
        SpecError: A rank or option out of range, or a count that is not that of the adapters.
    """
    chosen = plan.plan if isinstance(plan, PlanDocument) else plan
    model.require_plain(module)
    methods: Mapping[str, Method] = discover("autopeft.methods")
    put_back, is_training = model.noted(module), module.training
    try:
        base = BaseModel(module, None, name=model.name_of(module), untrained=frozenset())
        check_plan(chosen, base, methods)
        configs = train.compile_plan(chosen, methods)
        attached = base.attach_for_good(configs, plan=chosen, task_type=task_type_of(module), seed=seed)
    except BaseException:
        put_back()
        raise
    if any(dict(adapter.options).get("init") == "eva" for adapter in chosen.adapters):
        log.warning("The plan's adapters start from data (EVA); without data they start at random here.")
    return attached.train(is_training)


def task_type_of(module: nn.Module) -> str | None:
    """`peft`'s word for what a model is for; None where it has none."""
    for task in discover("autopeft.tasks").values():
        mapping = getattr(getattr(transformers, task.auto_class), "_model_mapping", {})
        config = getattr(module, "config", None)
        if type(config) in mapping and isinstance(module, mapping[type(config)]):
            return None if task.peft_task_type is None else str(task.peft_task_type)
    return None

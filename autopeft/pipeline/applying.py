"""`apply` and `save`: a plan's adapters on a model that the user has in memory, and on the disk."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import transformers
from peft import PeftModel
from torch import nn

from autopeft import model, train
from autopeft.errors import ModelError, SpecError
from autopeft.exports import fresh_folder
from autopeft.extension import Method, discover
from autopeft.model import BaseModel
from autopeft.pipeline.prepare import check_plan
from autopeft.records import Plan, PlanDocument

log = logging.getLogger(__name__)


def apply(
    plan: Plan | PlanDocument, module: nn.Module, *, seed: int = 0, weights: str | Path | None = None
) -> PeftModel:
    """A model with a plan's adapters attached, to be trained by one's own loop, or trained already.

    What trains then are the adapters and the task head, nothing else; the plan's learning rate is
    for the adapters (of a mix times each adapter's `rate_factor`). `module` itself is changed, as by
    `peft`, and left as it was where this raises. `save` writes all of it; `save_pretrained` lacks what lies
    beneath virtual tokens.

    Args:
        plan: A plan, alone or with what it remembers.
        module: The base model that it was made for, or one of the same shape; a transformers model.
        seed: Decides the adapters' first values.
        weights: Folder of trained weights, a run's `best/weights` or what `save` wrote. Of P-tuning they are
            what its network gave: such a model can be used, and not be trained on.

    Raises:
        ModelError: The module is no transformers model in float32, or has adapters already.
        SiteError: An adapter does not fit the model, or `peft` attached another number of parameters.
        SpecError: No plan, or a rank or option out of range, or a count that is not that of the adapters;
            or weights that are not those of the plan.
    """
    chosen = plan.plan if isinstance(plan, PlanDocument) else plan
    if not isinstance(chosen, Plan):
        raise SpecError(f"The plan is a {type(chosen).__name__}; pass a Plan, or what load_plan reads.")
    model.require_plain(module)
    methods: Mapping[str, Method] = discover("autopeft.methods")
    folder = None if weights is None else Path(weights)
    put_back, is_training = model.noted(module), module.training
    try:
        # What a checkpoint lacked was trained with the head, and is in the weights.
        kept = () if folder is None else tuple(f"{name}." for name in model.modules_kept_whole(folder))
        untrained = frozenset(name for name, _ in module.named_parameters() if name.startswith(kept))
        base = BaseModel(module, None, name=model.name_of(module), untrained=untrained)
        check_plan(chosen, base, methods)
        configs = train.compile_plan(chosen, methods)
        attached = base.attach_for_good(
            configs,
            plan=chosen,
            task_type=task_type_of(module),
            seed=seed,
            weights=folder,
        )
    except BaseException:
        put_back()
        raise
    if folder is None and any(dict(adapter.options).get("init") == "eva" for adapter in chosen.adapters):
        log.warning("The plan's adapters start from data (EVA); without data they start at random here.")
    if len(configs) > 1 and configs[-1].is_prompt_learning:
        log.warning(
            "save_pretrained of this model keeps its virtual tokens alone; autopeft.save(model, folder) "
            "keeps the adapters beneath too."
        )
    return attached.train(is_training)


def save(adapted: PeftModel, folder: str | Path) -> None:
    """Writes adapters and head of a model that `apply` gave, in `peft`'s own files.

    One adapter lies in the folder itself; several lie in a folder each, in the order of `order.json`.

    Args:
        adapted: What `apply` gave.
        folder: Absent or empty; written whole or not at all.

    Raises:
        ModelError: It is no such model.
        RunDirError: The folder holds files already, or cannot be written.
    """
    if not isinstance(adapted, PeftModel):
        raise ModelError(f"The model is a {type(adapted).__name__}; pass what autopeft.apply gave.")
    with fresh_folder(Path(folder)) as fresh:
        model.save_weights(adapted, model.attached_names(adapted), fresh)


def task_type_of(module: nn.Module) -> str | None:
    """`peft`'s word for what a model is for; None where it has none."""
    for task in discover("autopeft.tasks").values():
        mapping = getattr(getattr(transformers, task.auto_class), "_model_mapping", {})
        config = getattr(module, "config", None)
        if type(config) in mapping and isinstance(module, mapping[type(config)]):
            return None if task.peft_task_type is None else str(task.peft_task_type)
    return None

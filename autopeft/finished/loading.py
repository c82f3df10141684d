"""`apply` attaches a plan to a model in memory; `save` writes its adapters to disk."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, cast

from peft import PeftModel
from torch import nn

from autopeft import model
from autopeft.adapters import check_plan, compile_plan, other_base_note
from autopeft.errors import ModelError, RunDirError, SpecError
from autopeft.finished.training_notes import finished_weights, has_other_base, require_same_base
from autopeft.model import BaseModel
from autopeft.model.attaching import modules_kept_whole, note_state
from autopeft.model.checkpoint_source import name_labels
from autopeft.model.user_model import loaded_from
from autopeft.plugins import discover
from autopeft.setup.resources import FREE_MEMORY, loading_place, memory_needed, one_at_a_time
from autopeft.store import RunDir, fresh_folder
from autopeft.types import IN_MEMORY, Plan, PlanDocument, SearchResult, TrainedPlan

log = logging.getLogger(__name__)


@one_at_a_time()
def apply(
    plan: Plan | PlanDocument, module: nn.Module, *, seed: int = 0, weights: str | Path | None = None
) -> PeftModel:
    """Attach a plan's adapters to a model, ready for the user's training loop or with trained weights.

    Only the adapters and the task head require gradients, and these are float32: train and call a model in
    bfloat16 under `torch.autocast` (`bf16=True` of a Trainer). The plan's learning rate is for the adapters
    (in a mix of methods, times each adapter's `rate_factor`). `save` writes every adapter.

    `module` is changed in place, as `peft` does, and is restored if this function raises. A warning is logged
    if the plan or the weights are of another base model. Calls from several threads wait for each other.

    Args:
        plan: A plan, or a plan document read from a file.
        module: A transformers model: the plan's base model, or one of the same shape.
        seed: Decides the adapters' initial values.
        weights: Folder of trained weights: a run's `best/weights`, or what `save` wrote.

    Raises:
        ModelError: The module is not a transformers model in float32 or 16 bits, or has adapters already.
        TargetError: An adapter does not fit the model, or `peft` attached another number of parameters.
        SpecError: `plan` is not a plan, or has faults, or the weights belong to another plan.
    """
    model.require_plain(module)
    folder = None if weights is None else Path(weights)
    if folder is not None and has_other_base(folder, module):
        log.warning("%s was trained on a base model with other weights.", folder)
    return _attach(plan, module, seed=seed, folder=folder)


def _attach(plan: Plan | PlanDocument, module: nn.Module, *, seed: int = 0, folder: Path | None) -> PeftModel:
    """Attach a plan as `apply` does; the caller has compared the base model with that of the weights."""
    document = plan if isinstance(plan, PlanDocument) else None
    plan = document.plan if document is not None else plan
    if not isinstance(plan, Plan):
        raise SpecError(f"The plan is a {type(plan).__name__}; pass a Plan, or what load_plan reads.")
    restore, is_training = note_state(module), module.training
    try:
        # Modules missing from the checkpoint were trained with the head: their weights are in the folder.
        whole = () if folder is None else tuple(f"{name}." for name in modules_kept_whole(folder))
        untrained = frozenset(name for name, _ in module.named_parameters() if name.startswith(whole))
        name = loaded_from(module) or type(module).__name__
        base = BaseModel(module, None, name=name, untrained=untrained)
        check_plan(plan, base, discover("autopeft.methods"))
        if document is not None and (note := other_base_note(document, base)):
            log.warning("%s", note)
        return _attach_for_good(plan, base, seed=seed, weights=folder).train(is_training)
    except BaseException:
        restore()
        raise


def _attach_for_good(plan: Plan, base: BaseModel, *, weights: Path | None, seed: int = 0) -> PeftModel:
    configs = compile_plan(plan, discover("autopeft.methods")).configs
    task_type = model.task_type_of(base.module)
    adapted = base.attach_for_good(configs, plan=plan, task_type=task_type, seed=seed)
    if weights is not None:
        model.load_weights(adapted, tuple(adapted.peft_config), weights)
    return adapted


def load_finished(result: SearchResult, folder: Path, *, module: nn.Module | None = None) -> PeftModel:
    """Load the base model of a run with its finished adapter and head, in eval mode.

    Without `module`, it is loaded to the run's device if that is available and has the memory, else to the
    CPU: in float32, or in 16 bits if the run held a language model so and trained no norm, so that it needs
    no autocast. A `module` is changed in place; its outputs get the run's labels, in the order of the head.

    Raises:
        RunDirError: The folder is gone, or the run has no finished weights.
        ModelError: The base model cannot be loaded, was in memory and is not passed, or is another one.
    """
    if not folder.is_dir():
        raise RunDirError(
            f"{folder}, the folder of this run, does not exist; if it was moved, load the result with "
            "autopeft.load_result(folder)."
        )
    weights, setting = finished_weights(RunDir.open(folder)), result.setting
    if module is not None:
        model.require_plain(module)
        require_same_base(weights, module)
        attached = _attach(result.best, module, folder=weights)
        config, names = cast(Any, module).config, setting.label_names
        if names and config.num_labels == len(names):  # the trained head may have another order of labels
            name_labels(config, names)
        return attached.eval()
    if result.spec.model.id == IN_MEMORY:
        raise ModelError("The base model of this run was in memory; pass it: result.load(model).")
    return load_with_base(result, weights)[0]


def load_with_base(result: SearchResult | TrainedPlan, weights: Path) -> tuple[PeftModel, BaseModel]:
    """Load the base model that a run names; returns it with the finished adapter and head, and alone."""
    auto_class = result.setting.auto_class or discover("autopeft.tasks")[result.setting.task].auto_class
    with model.quiet_libraries(), memory_needed("loading the base model", FREE_MEMORY):
        device, precision = loading_place(result.spec, result.best, auto_class=auto_class)
        base = model.load(
            result.spec.model,
            device=device,
            precision=precision,
            auto_class=auto_class,
            label_names=result.setting.label_names,
            needs_tokenizer=False,
        )
    require_same_base(weights, base.module)
    return _attach_for_good(result.best, base, weights=weights).eval(), base


def save(adapted: PeftModel, folder: str | Path) -> None:
    """Write the adapters and head of a model that `apply` returned, in `peft`'s file format.

    A single adapter goes into the folder itself. Several adapters get a sub-folder each, and `order.json`
    lists the order in which they are attached. The folder is written whole or not at all.

    Raises:
        ModelError: `adapted` is not a `PeftModel`.
        RunDirError: The folder holds files already, or cannot be written.
    """
    if not isinstance(adapted, PeftModel):
        raise ModelError(
            f"The model is a {type(adapted).__name__}; pass a model that autopeft.apply returned."
        )
    with fresh_folder(Path(folder)) as fresh:
        model.save_weights(adapted, tuple(adapted.peft_config), fresh)

"""LOOK: load data and base model, and fit the task to them."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from torch import nn

from autopeft import data, model
from autopeft.data import LabelledData
from autopeft.errors import DataError, ModelError, UnknownNameError
from autopeft.model import BaseModel
from autopeft.model.user_model import narrow_format_of
from autopeft.plugins import Catalogue, Method, Task, discover, is_own_metric
from autopeft.setup.resources import with_spread
from autopeft.types import IN_MEMORY, OWN_TRAINER, RunSpec, with_setting

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, eq=False)
class InMemory:
    """A model, its tokenizer, and a dataset that were passed as objects; None where a setting names one.

    The dataset is a `Dataset`, a `DataFrame` of pandas or Polars, or a dictionary from split to these.
    """

    model: nn.Module | None = None
    tokenizer: Any = None
    data: Any = None


NAMED = InMemory()  # the settings name both model and dataset


def look(spec: RunSpec, memory: InMemory) -> tuple[RunSpec, LabelledData, BaseModel, Task]:
    """Load data and base model, in the precision and on the devices that suit them, and fit the task to them.

    Unknown names and missing packages are refused before the data are read, which takes long.
    """
    plugin: Task = discover("autopeft.tasks")[spec.task.name]
    discover("autopeft.sensitivity")[spec.search.score]
    require_known_metric(plugin, spec.task.metric)
    if memory.model is None:
        model.find_device(spec.execution.device)
        with model.quiet_libraries():
            model.require_packages(spec.model)
    loaded = load_data(spec, plugin.read_rows, memory)
    for note in loaded.notes:
        is_doubtful = note.startswith(("Dropped", "Labels"))
        log.log(logging.WARNING if is_doubtful else logging.INFO, "%s", note)
    # Fitted twice: now to refuse an unsuitable metric before the model is loaded; then with tokenizer.
    task = plugin.fitted(spec.task, loaded.label_space)
    for note in task.notes:
        log.warning("%s", note)
    with model.quiet_libraries():
        spec = with_spread(with_precision(spec, memory), auto_class=task.auto_class)
        base = load_base(spec, task, loaded, memory)
    if loaded.label_space.kind == "number":
        base.scale_output_to(mean=loaded.label_space.mean, std=loaded.label_space.std)
    if (commit := model.commit_of(spec.model)) is not None:  # a repeated run loads the same weights
        spec = with_setting(spec, "model.revision", commit)
    task = task.fitted(spec.task, loaded.label_space, base.tokenizer)
    return spec, loaded, base, task


def load_data(spec: RunSpec, read_rows: data.ReadRows, memory: InMemory) -> LabelledData:
    """Split the dataset that the settings name, or the one in memory."""
    if memory.data is None and spec.data.source in (IN_MEMORY, OWN_TRAINER):
        raise DataError(
            f"The rows of this run are {spec.data.source}, which settings cannot read; pass them in Python "
            "(data=…), name a file with --data, or pass best/trial.json to your own trainer."
        )
    if memory.data is not None:
        return data.load_in_memory(spec.data, memory.data, seed=spec.search.seed, read_rows=read_rows)
    return data.load(spec.data, seed=spec.search.seed, read_rows=read_rows)


def with_precision(spec: RunSpec, memory: InMemory) -> RunSpec:
    """Replace the precision `auto` by the one that suits this model and machine.

    Raises ModelError if a model in memory has 16-bit weights and the settings ask for another precision.
    """
    requested, loaded = spec.execution.dtype, memory.model
    narrow = None if loaded is None else narrow_format_of(loaded)
    if narrow is not None and requested not in ("auto", narrow):
        raise ModelError(
            f"dtype is {requested!r}, but the model in memory has weights in {narrow}; "
            "leave dtype out, or pass model.float()."
        )
    if requested != "auto":
        return spec
    if loaded is None:
        device, config = model.find_device(spec.execution.device), model.config_of(spec.model)
    else:
        device, config = next(loaded.parameters()).device, cast("Any", loaded).config
    return with_setting(spec, "execution.dtype", narrow or model.choose_precision(config, device).dtype)


def load_base(spec: RunSpec, task: Task, loaded: LabelledData, memory: InMemory) -> BaseModel:
    """Load the base model, or take the one in memory; ModelError if settings would change that one."""
    precision = model.Precision(dtype=spec.execution.dtype)
    if memory.model is None:
        base = model.load(
            spec.model,
            auto_class=task.auto_class,
            label_names=loaded.label_names,
            device=spec.execution.device,
            precision=precision,
        )
        if spec.execution.attention is not None:
            model.set_attention(base.module, spec.execution.attention)
        return base
    if spec.execution.attention or spec.execution.device or spec.model.quantize != "none":
        raise ModelError(
            "A model in memory is used as it is; change the model itself, and leave attention, device and "
            "quantize out."
        )
    return model.from_memory(
        memory.model,
        memory.tokenizer,
        auto_class=task.auto_class,
        label_names=loaded.label_names,
        precision=precision,
        components=spec.model.components,
    )


def require_known_metric(task: Task, metric: str | None) -> None:
    """Raise UnknownNameError for a metric that the task cannot measure on any data; None always passes."""
    if metric is None or (is_own_metric(metric) and hasattr(task, "judges_texts")):
        return
    kinds = {*getattr(task, "kinds", ())}
    of_labels = {each.name for each in discover("autopeft.metrics").values() if kinds & {*each.kinds}}
    if metric not in (names := {*task.metrics, *of_labels}):
        raise UnknownNameError(f"metric of {task.name}", metric, names)


def methods_for(base: BaseModel) -> Mapping[str, Method]:
    """Find the installed methods, with learning rates for the width of a base model."""
    installed: Catalogue[Method] = discover("autopeft.methods")
    return installed.changed(lambda method: method.at_width(base.hidden_size))

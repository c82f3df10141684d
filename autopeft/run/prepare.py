"""LOOK at data, model and devices, then BUILD the bench with the settings that `derive` chooses."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, cast

import numpy as np
from torch import nn

from autopeft import data, model, train
from autopeft.data import LabelledData
from autopeft.errors import DataError, ModelError, UnknownNameError
from autopeft.model import BaseModel
from autopeft.model.user_model import narrow_format_of
from autopeft.plugins import Catalogue, Method, Task, discover, is_own_metric, text_form
from autopeft.run.derive import LONGER, Facts, derive, full_run
from autopeft.run.resources import budget_of, memory_needed, with_compute, with_spread
from autopeft.types import (
    IN_MEMORY,
    SETTINGS,
    Budget,
    Decision,
    Fidelity,
    Plan,
    RunSpec,
    with_setting,
)

_SAMPLED_ROWS = 2000  # whose tokens are counted; heuristic: a percentile within some tokens

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


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """Everything that stays the same during a run, the loaded base model included.

    `decisions` say which settings were derived and by what rule; `spec` holds their values.
    """

    spec: RunSpec
    data: LabelledData
    base: BaseModel
    task: Task
    methods: Mapping[str, Method]
    bench: train.Bench
    full_steps: int
    decisions: tuple[Decision, ...] = ()

    def n_evaluated(self, split: str) -> int:
        """Count the evaluated examples of a split: all, or `--max-eval-examples`; 0 without the split."""
        n_examples = len(self.bench.splits[split].labels) if split in self.bench.splits else 0
        return min(n_examples, self.spec.data.max_eval_examples or n_examples)

    @property
    def budget(self) -> Budget:
        """The requested budget in parameters."""
        return budget_of(self.spec, self.base)

    @property
    def groups(self) -> dict[str, tuple[int, ...]]:
        """Split -> the group of each evaluated example, for the confirm and test split.

        A split is left out if it has no groups, one group per example, or one group in all, which does not
        show how much groups differ.
        """
        by_split = dict[str, tuple[int, ...]]()
        for split in (self.data.confirm, self.data.test):
            if not split.groups:
                continue
            encoded = self.bench.splits[split.name]
            rows = encoded.subset(self.spec.data.max_eval_examples or len(split.groups))
            groups = tuple(split.groups[row if encoded.rows is None else encoded.rows[row]] for row in rows)
            if 1 < len(set(groups)) < len(groups):
                by_split[split.name] = groups
        return by_split


def with_demo_settings(spec: RunSpec, explicit: frozenset[str]) -> RunSpec:
    """Replace what the user did not set by the demo's values, if neither model nor data is named."""
    if spec.model.id is not None or spec.data.source is not None:
        return spec
    for field in SETTINGS.values():
        is_set = field.name in explicit or (field.name == "task.max_steps" and "task.epochs" in explicit)
        if field.demo is not None and not is_set:
            spec = with_setting(spec, field.name, field.demo)
    return spec


def prepare(
    spec: RunSpec,
    *,
    keep_weights: Callable[[Plan, int], Path] | None = None,
    under_way: Callable[[Plan, Fidelity], Path] | None = None,
    curve: Callable[[Plan, Fidelity], Path] | None = None,
    memory: InMemory = NAMED,
    interrupt: Callable[[], None] = lambda: None,
) -> Prepared:
    """Load data and base model, derive the settings that the user left open, and build the bench.

    `keep_weights`, `under_way`, `curve` and `interrupt` are those of the bench. With the precision `auto`, a
    model that overflows in float16 is loaded again in float32.

    Raises:
        UnknownNameError: Task, score or metric does not exist.
        DataError, ModelError, TargetError, SpecError: As for `load_data`, `load_base` and `with_compute`.
        ModelError: Memory runs out.
    """
    build = partial(
        _prepare,
        memory=memory,
        keep_weights=keep_weights,
        under_way=under_way,
        curve=curve,
        interrupt=interrupt,
    )
    with memory_needed("preparing the base model and its data", spec):
        try:
            return build(spec)
        except train.OverflowInFloat16Error:
            if spec.execution.dtype != "auto":
                raise
        log.warning("The loss of %s overflows in float16: the run computes in float32.", spec.model.id)
        return build(with_setting(spec, "execution.dtype", "float32"))


def _prepare(spec: RunSpec, *, memory: InMemory, **of_bench: Any) -> Prepared:
    spec, loaded, base, task = look(spec, memory)
    encode = cache(partial(train.encode_splits, loaded, base=base, task=task))
    facts = facts_of(spec, loaded, base, task, encode=lambda n_tokens: encode(max_length=n_tokens)["train"])
    derived = derive(spec, facts)
    if spec.task.max_length not in (None, derived.spec.task.max_length):
        log.warning("%s", derived.decisions[0])
    if derived.max_new_tokens is not None:
        task = replace(cast("Any", task), max_new_tokens=derived.max_new_tokens)
    bench = train.Bench(
        base=base,
        task=task,
        methods=methods_for(base),
        splits=encode(max_length=derived.spec.task.max_length),
        batch_size=derived.batch_size,
        full_steps=derived.full_steps,
        **of_bench,
    )
    spec, bench, computing = with_compute(derived.spec, bench)
    return Prepared(
        spec=spec,
        data=loaded,
        base=base,
        task=task,
        methods=bench.methods,
        bench=bench,
        full_steps=derived.full_steps,
        decisions=(*derived.decisions, *computing),
    )


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
    if form := text_form(task):
        log.info("%s", form)
    return spec, loaded, base, task


def facts_of(
    spec: RunSpec,
    loaded: LabelledData,
    base: BaseModel,
    task: Task,
    *,
    encode: Callable[[int | None], train.EncodedSplit],
    device: str | None = None,
) -> Facts:
    """Collect what `derive` reads; `device` is where a base model without weights would be trained."""
    n_rows, limits = len(loaded.train.labels), task.defaults.max_length or (0, 0)

    def row_tokens() -> list[int]:
        order = np.random.default_rng(spec.search.seed).permutation(n_rows)
        rows = sorted(order[:_SAMPLED_ROWS].tolist())
        return train.uncut_lengths(loaded.train, rows, base, task, most=LONGER * limits[1])

    return Facts(
        task=task,
        device=device or base.device.type,
        n_rows=n_rows,
        max_tokens=train.max_length_of(base),
        limited_by=train.limited_by(base),
        row_tokens=row_tokens,
        text_tokens=lambda: train.count_tokens(loaded.train, base, task, block_length=limits[0]),
        encode=encode,
    )


def with_all_rows(prepared: Prepared) -> Prepared:
    """Return the same run with the rows of search and confirm in the train split as well.

    A full run has as many epochs as before; a number of steps grows with the rows. The task head keeps the
    learning rate that it had.
    """
    spec, loaded = prepared.spec, prepared.data.with_all_rows()
    log.info("%s", loaded.notes[-1])
    train_split = train.encode_split(
        loaded.train, base=prepared.base, task=prepared.task, max_length=spec.task.max_length
    )
    n_train, n_before = len(train_split.labels), len(prepared.bench.splits["train"].labels)
    max_steps = spec.task.max_steps and round(spec.task.max_steps * n_train / n_before)
    batch_size, full_steps = full_run(spec.task.model_copy(update={"max_steps": max_steps}), n_train)
    bench = replace(
        prepared.bench,
        splits={**prepared.bench.splits, "train": train_split},
        batch_size=batch_size,
        full_steps=full_steps,
        head_learning_rate=prepared.bench.head_rates.output if prepared.base.head_params else None,
    )
    return replace(prepared, data=loaded, bench=bench, full_steps=full_steps)


def load_data(spec: RunSpec, read_rows: data.ReadRows, memory: InMemory) -> LabelledData:
    """Split the dataset that the settings name, or the one in memory.

    Raises DataError; if the columns are usual for another task, the error suggests that task.
    """
    if memory.data is None and spec.has_own_trainer:
        raise DataError(
            "The rows of this run are those of your own trainer, which autopeft cannot read. Pass "
            "best/trial.json to your training script, or name a file with --data to train with autopeft."
        )
    if memory.data is None and spec.data.source == IN_MEMORY:
        raise DataError(
            "The dataset of this run was an object in memory and cannot be read from settings; pass it in "
            "Python (autopeft.search(…, data=…)), or name a file with --data."
        )
    try:
        if memory.data is not None:
            return data.load_in_memory(spec.data, memory.data, seed=spec.search.seed, read_rows=read_rows)
        return data.load(spec.data, seed=spec.search.seed, read_rows=read_rows)
    except data.NoLabelColumnError as error:
        usual = data.other_rows_of(error.names)
        if usual is None or usual.read_rows is read_rows:
            raise
        tasks = discover("autopeft.tasks").values()
        names = " or ".join(task.name for task in tasks if task.read_rows is usual.read_rows)
        remedy = f"for {usual.words} set --task {names}, else name it"
        raise data.NoLabelColumnError(error.names, remedy=remedy) from error


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
    set_to = {"attention": spec.execution.attention, "device": spec.execution.device}
    for name, value in (set_to | {"quantize": spec.model.quantize}).items():
        if value not in (None, "none"):
            raise ModelError(
                f"{name} is {value!r}, but a model in memory is used as it is; change the model itself, and "
                f"leave {name} out."
            )
    return model.from_memory(
        memory.model,
        memory.tokenizer,
        auto_class=task.auto_class,
        label_names=loaded.label_names,
        precision=precision,
    )


def require_known_metric(task: Task, metric: str | None) -> None:
    """Raise UnknownNameError for a metric that the task cannot measure on any data; None always passes."""
    kinds = getattr(task, "kinds", ())
    of_labels = [each.name for each in discover("autopeft.metrics").values() if {*kinds} & {*each.kinds}]
    if is_own_metric(metric) and hasattr(task, "judges_texts"):
        return
    if metric is not None and metric not in (names := {*task.metrics, *of_labels}):
        raise UnknownNameError(f"metric of {task.name}", metric, names)


def methods_for(base: BaseModel) -> Mapping[str, Method]:
    """Find the installed methods, with learning rates for the width of a base model."""
    installed: Catalogue[Method] = discover("autopeft.methods")
    return installed.changed(lambda method: method.at_width(base.hidden_size))

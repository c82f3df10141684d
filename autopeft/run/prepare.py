"""What every command needs before it can measure: data, base model, budget, bench."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from torch import nn

from autopeft import data, model, train
from autopeft.data import LabelledData
from autopeft.errors import DataError, ModelError, UnknownNameError
from autopeft.model import BaseModel
from autopeft.model.user_model import narrow_format_of
from autopeft.plugins import Catalogue, Method, Task, discover, is_own_metric, text_form
from autopeft.run.defaults import with_full_run, with_max_length, with_max_new_tokens
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
    memory: InMemory = NAMED,
    interrupt: Callable[[], None] = lambda: None,
) -> Prepared:
    """Load data and base model, encode the splits, and derive the settings that the user left open.

    `spec` of the answer holds the derived settings. Notes on data and task are logged. `keep_weights`,
    `under_way` and `interrupt` are those of the bench.

    Raises:
        UnknownNameError: Task, score or metric does not exist.
        DataError, ModelError, TargetError, SpecError: As for `load_data`, `load_base` and `with_compute`.
        ModelError: Memory runs out.
    """
    with memory_needed("preparing the base model and its data", spec):
        part: Task = discover("autopeft.tasks")[spec.task.name]
        discover("autopeft.sensitivity")[spec.search.score]  # an unknown name is refused before any work
        require_known_metric(part, spec.task.metric)
        if memory.model is None:  # before the data are read, which takes long
            model.find_device(spec.execution.device)
            with model.quiet_libraries():
                model.require_packages(spec.model)
        loaded = load_data(spec, part.read_rows, memory)
        for note in loaded.notes:
            is_doubtful = note.startswith(("Dropped", "Labels"))
            log.log(logging.WARNING if is_doubtful else logging.INFO, "%s", note)
        # Fitted twice: now to refuse an unsuitable metric before the model is loaded; then with tokenizer.
        task = part.fitted(spec.task, loaded.label_space)
        for note in task.notes:
            log.warning("%s", note)
        with model.quiet_libraries():
            spec = with_spread(with_precision(spec, memory), auto_class=task.auto_class)
            base = load_base(spec, task, loaded, memory)
        if loaded.label_space.kind == "number":
            base.scale_output_to(mean=loaded.label_space.mean, std=loaded.label_space.std)
        if (commit := model.commit_of(spec.model)) is not None:  # a repeated run loads the same weights
            spec = with_setting(spec, "model.revision", commit)
        methods = methods_for(base)
        log.info("Learning rates are those for a hidden size of %s.", f"{base.hidden_size:,}")
        task = task.fitted(spec.task, loaded.label_space, base.tokenizer)
        spec, length = with_max_length(spec, loaded, base, task, base.device.type)
        splits = train.encode_splits(loaded, base=base, task=task, max_length=spec.task.max_length)
        if form := text_form(task):
            log.info("%s", form)
        spec, full_run = with_full_run(spec, splits["train"], task, base.device.type)
        task, answers = with_max_new_tokens(task, splits["train"])
        n_train = len(splits["train"].labels)
        batch_size = min(spec.task.batch_size or n_train, n_train)
        full_steps = train.full_run_steps(
            n_train=n_train, batch_size=batch_size, epochs=spec.task.epochs, max_steps=spec.task.max_steps
        )
        bench = train.Bench(
            base=base,
            task=task,
            methods=methods,
            splits=splits,
            batch_size=batch_size,
            keep_weights=keep_weights,
            under_way=under_way,
            full_steps=full_steps,
            interrupt=interrupt,
        )
        spec, bench, computing = with_compute(spec, bench)
        return Prepared(
            spec=spec,
            data=loaded,
            base=base,
            task=task,
            methods=methods,
            bench=bench,
            full_steps=full_steps,
            decisions=(*length, *full_run, *answers, *computing),
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
    batch_size = min(spec.task.batch_size or n_train, n_train)
    full_steps = train.full_run_steps(
        n_train=n_train,
        batch_size=batch_size,
        epochs=spec.task.epochs,
        max_steps=spec.task.max_steps and round(spec.task.max_steps * n_train / n_before),
    )
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
    execution = spec.execution
    narrow = None if memory.model is None else narrow_format_of(memory.model)
    if narrow is not None and execution.dtype not in ("auto", narrow):
        raise ModelError(
            f"dtype is {execution.dtype!r}, but the model in memory has weights in {narrow}; "
            "leave dtype out, or pass model.float()."
        )
    if execution.dtype != "auto":
        return spec
    if narrow is not None:
        return with_setting(spec, "execution.dtype", narrow)
    if memory.model is None:
        device, config = model.find_device(execution.device), model.config_of(spec.model)
    else:
        device, config = next(memory.model.parameters()).device, cast("Any", memory.model).config
    precision = model.choose_precision(config, device)
    return with_setting(spec, "execution.dtype", precision.dtype)


def load_base(spec: RunSpec, task: Task, loaded: LabelledData, memory: InMemory) -> BaseModel:
    """Load the base model, or take the one in memory; ModelError if settings would change that one."""
    names, precision = loaded.label_names, model.Precision(dtype=spec.execution.dtype)
    if memory.model is None:
        base = model.load(
            spec.model,
            auto_class=task.auto_class,
            label_names=names,
            device=spec.execution.device,
            precision=precision,
        )
        if spec.execution.attention is not None:
            model.set_attention(base.module, spec.execution.attention)
        return base
    remedies = {
        "attention": "call model.set_attn_implementation(…)",
        "device": "move the model with model.to(…)",
        "quantize": "load it quantized",
    }
    set_to = {"attention": spec.execution.attention, "device": spec.execution.device}
    for name, value in (set_to | {"quantize": spec.model.quantize}).items():
        if value not in (None, "none"):
            raise ModelError(
                f"{name} is {value!r}, but a model in memory is used unchanged; {remedies[name]} and leave "
                f"{name} out."
            )
    return model.from_memory(
        memory.model,
        memory.tokenizer,
        auto_class=task.auto_class,
        label_names=names,
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

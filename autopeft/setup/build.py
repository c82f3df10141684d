"""BUILD the bench of a run: `prepare` looks at data and model, derives the settings, and joins both."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

from autopeft import train
from autopeft.budget import AUTO
from autopeft.data import LabelledData
from autopeft.model import BaseModel
from autopeft.plugins import Task
from autopeft.setup.derive import full_run, with_answer_length, with_batch_and_epochs, with_max_length
from autopeft.setup.look import NAMED, InMemory, look, methods_for
from autopeft.setup.resources import budget_of, labelled_tokens, memory_needed, with_compute, with_rank
from autopeft.store import RunDir
from autopeft.train.lengths import Lengths
from autopeft.types import SETTINGS, Budget, Decision, RunSpec, with_setting

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """Everything that stays the same during a run, the loaded base model included.

    `decisions` say which settings were derived and by what rule; `spec` holds their values.
    """

    spec: RunSpec
    data: LabelledData
    base: BaseModel
    task: Task
    bench: train.Bench
    full_steps: int
    decisions: tuple[Decision, ...] = ()

    def kept_in(self, run: RunDir) -> Prepared:
        """Return the same run with weights, states and curves in a run directory; see `Bench`."""
        bench = replace(self.bench, keep_weights=run.weights, under_way=run.under_way, curve=run.curve)
        return replace(self, bench=bench)

    def n_evaluated(self, split: str) -> int:
        """Count the evaluated examples of a split: all, or `--max-eval-examples`; 0 without the split."""
        n_examples = len(self.bench.splits[split].labels) if split in self.bench.splits else 0
        return min(n_examples, self.spec.data.max_eval_examples or n_examples)

    @property
    def lengths(self) -> Lengths:
        """The steps of a full run, and the evaluated examples of each split."""
        return Lengths(
            full_steps=self.full_steps,
            batch_size=self.bench.batch_size,
            n_search=self.n_evaluated("search"),
            n_confirm=self.n_evaluated("confirm"),
            n_test=self.n_evaluated("test"),
        )

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


def prepare(spec: RunSpec, *, memory: InMemory = NAMED) -> Prepared:
    """Load data and base model, derive the settings that the user left open, and build the bench.

    With the precision `auto`, a model that overflows in float16 is loaded again in float32. Raises as `look`
    and `with_compute` do, DataError if rows cannot be encoded, and ModelError if memory runs out.
    """
    with memory_needed("preparing the base model and its data", spec):
        try:
            return _prepare(spec, memory)
        except train.OverflowInFloat16Error:
            if spec.execution.dtype != "auto":
                raise
        log.warning("The loss of %s overflows in float16: the run computes in float32.", spec.model.id)
        return _prepare(with_setting(spec, "execution.dtype", "float32"), memory)


def _prepare(spec: RunSpec, memory: InMemory) -> Prepared:
    spec, loaded, base, task = look(spec, memory)
    device = base.device.type
    spec, of_length = with_max_length(spec, loaded.train, base, task, device=device)
    splits = train.encode_splits(loaded, base=base, task=task, max_length=spec.task.max_length)
    examples = splits["train"]
    spec, of_steps = with_batch_and_epochs(spec, examples, task.defaults, device=device)
    task, of_answers = with_answer_length(task, examples)
    decisions = [*of_length, *of_steps, *of_answers]
    if spec.budget.requested == AUTO:
        spec, ranked = with_rank(spec, base, n_labelled=labelled_tokens(task, examples))
        decisions.append(ranked)
    n_per_step, full_steps = full_run(spec.task, len(examples.labels))
    bench = train.Bench(
        base=base,
        task=task,
        methods=methods_for(base),
        splits=splits,
        batch_size=n_per_step,
        full_steps=full_steps,
    )
    spec, bench, computing = with_compute(spec, bench)
    return Prepared(
        spec=spec,
        data=loaded,
        base=base,
        task=task,
        bench=bench,
        full_steps=full_steps,
        decisions=(*decisions, *computing),
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


def with_demo_settings(spec: RunSpec) -> RunSpec:
    """Replace what the user did not set by the demo's values, if neither model nor data is named."""
    if spec.model.id is not None or spec.data.source is not None:
        return spec
    explicit = spec.explicit
    for field in SETTINGS.values():
        is_set = field.name in explicit or (field.name == "task.max_steps" and "task.epochs" in explicit)
        if field.demo is not None and not is_set:
            spec = with_setting(spec, field.name, field.demo)
    return spec

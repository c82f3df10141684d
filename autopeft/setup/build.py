"""BUILD the bench of a run: `prepare` looks at data and model, derives the settings, and joins both."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, cast

from autopeft import train
from autopeft.budget import AUTO
from autopeft.data import LabelledData
from autopeft.model import BaseModel
from autopeft.model.devices import missing_kernels
from autopeft.plugins import Method, Task
from autopeft.setup.derive import derive, full_run
from autopeft.setup.look import NAMED, InMemory, facts_of, look, methods_for
from autopeft.setup.resources import budget_of, labelled_tokens, memory_needed, with_compute, with_rank
from autopeft.types import SETTINGS, Budget, Decision, Fidelity, Plan, RunSpec, with_setting

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
    model that overflows in float16 is loaded again in float32. Raises as `look`, `derive` and `with_compute`
    do, and ModelError if memory runs out.
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
    """Look at data and model, derive the settings, and build the bench with `of_bench`."""
    spec, loaded, base, task = look(spec, memory)
    if base.device.type == "cuda" and (missing := missing_kernels(base.module)):
        log.warning("The recurrent layers of %s are slow without %s.", base.name, " and ".join(missing))
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
    spec, decisions = derived.spec, derived.decisions
    if spec.budget.requested == AUTO:
        spec, ranked = with_rank(spec, base, n_labelled=labelled_tokens(task, bench.splits["train"]))
        decisions = (*decisions, ranked)
    spec, bench, computing = with_compute(spec, bench)
    return Prepared(
        spec=spec,
        data=loaded,
        base=base,
        task=task,
        methods=bench.methods,
        bench=bench,
        full_steps=derived.full_steps,
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


def with_demo_settings(spec: RunSpec, explicit: frozenset[str]) -> RunSpec:
    """Replace what the user did not set by the demo's values, if neither model nor data is named."""
    if spec.model.id is not None or spec.data.source is not None:
        return spec
    for field in SETTINGS.values():
        is_set = field.name in explicit or (field.name == "task.max_steps" and "task.epochs" in explicit)
        if field.demo is not None and not is_set:
            spec = with_setting(spec, field.name, field.demo)
    return spec

"""Measures plans: each is attached to the base model, trained, evaluated and detached again."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from autopeft.adapters import compile_plan
from autopeft.errors import TrainingError
from autopeft.extension import Batch, Evaluation, Method, Task
from autopeft.model import BaseModel, free_bytes, load_weights, release_memory, save_weights
from autopeft.model.devices import SavedBytes, forked_rng
from autopeft.model.input_statistics import input_directions, input_rms, set_initial_directions
from autopeft.model.training_pass import (
    can_checkpoint,
    checkpointed,
    heeding_known_masks,
    heeds_known_masks,
    without_cache,
)
from autopeft.records import Fidelity, Measurement, Plan, Status
from autopeft.train.batches import Batches, Collated
from autopeft.train.compute import (
    BATCHES_SHARE,
    FROZEN_SHARE,
    Compute,
    NothingToCutError,
    Recovery,
    in_smaller_batches,
    micro_batches,
    padded_tokens,
)
from autopeft.train.encoding import EncodedSplit, train_rows
from autopeft.train.failures import error_text, require_finite, status_of
from autopeft.train.loop import TrainingCost, TrainingRun, quick_masks, train
from autopeft.train.prefix import FrozenOutputs
from autopeft.train.rates import (
    HeadRates,
    RateSchedule,
    head_maps,
    head_rates,
    parameter_groups,
    short_schedule,
)
from autopeft.train.states import UnderWay

_EVA_EXAMPLES = 128  # of the train split, for directions of inputs; chosen by hand
_RMS_EXAMPLES = 32  # of the train split, for the size of the head's inputs; chosen by hand

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Measures plans on one base model, one task and one set of encoded splits.

    `keep_weights` gives the folder for the weights of a plan and seed, written by a full run and read for
    the test split; None keeps none. `under_way` gives the folder for the state of a run that something may
    stop; None keeps none. `head_learning_rate` is that of the last layer of the head, None for what suits the
    size of its inputs. `full_steps` are those of a full run, from which a short run branches off; without
    them it is a run of its own. `interrupt` is called before each training step; what it raises stops it.
    """

    base: BaseModel
    task: Task
    methods: Mapping[str, Method]
    splits: Mapping[str, EncodedSplit]
    batch_size: int
    keep_weights: Callable[[Plan, int], Path] | None = None
    under_way: Callable[[Plan, Fidelity], Path] | None = None
    full_steps: int | None = None
    head_learning_rate: float | None = None
    compute: Compute = field(default_factory=Compute)
    interrupt: Callable[[], None] = lambda: None
    _directions: dict[str, torch.Tensor] = field(default_factory=dict, init=False)  # of measured sites

    def measure(self, plan: Plan, fidelity: Fidelity) -> Measurement:
        """Train a plan on the train split and evaluate it on the fidelity's split; a failure is a value.

        For the test split nothing is trained: the weights that the full run kept for the same plan and
        seed are loaded. Raises TrainingError if the base model was changed, so that no later measurement
        could be trusted.
        """
        started, watch = time.perf_counter(), self.base.watch
        self.batches.next_measurement()
        try:
            with self.base.precision.multiplying():
                measurement = self._measure_in_memory(plan, fidelity)
        except Exception as error:  # a failed trial is a value
            log.debug("Trial failed", exc_info=True)
            measurement = Measurement(
                plan=plan,
                fidelity=fidelity,
                status=status_of(error),
                error=error_text(error, is_quantised=self.base.n_bits > 0),
                train_seconds=time.perf_counter() - started,
            )
        if measurement.status is Status.OUT_OF_MEMORY:
            self.make_room()  # after the handler, whose error holds on to the tensors
        if changed := watch.first_change(self.base.module):
            raise TrainingError(
                f"Plan {plan.digest} changed {changed} of the base model; this is a bug, please report it."
            )
        beside = time.perf_counter() - started - measurement.total_seconds
        return replace(measurement, overhead_seconds=max(0.0, beside))

    def _measure_in_memory(self, plan: Plan, fidelity: Fidelity) -> Measurement:
        """One measurement; if memory runs out in training it starts anew, in less and less of it."""
        compute = self.compute.of(plan)
        recovery = Recovery(
            compute=compute,
            frozen_outputs=self.frozen_outputs,
            split=self.splits["train"],
            steps=lambda: self._steps(fidelity, compute),
            is_trained=fidelity.split != "test",
            may_checkpoint=can_checkpoint(self.base.module),
        )
        return recovery.run(lambda: self._measure(plan, fidelity, compute), plan, make_room=self.make_room)

    def make_room(self) -> None:
        """Free what is kept on the device for later plans."""
        self.frozen_outputs.clear()
        self.batches.clear()
        release_memory(self.base.device)

    def _measure(self, plan: Plan, fidelity: Fidelity, compute: Compute) -> Measurement:
        is_trained = fidelity.split != "test"
        # Both are measured on the base model, before adapters are on it.
        directions, heads = (
            (self._eva_directions(plan, compute), self.head_rates) if is_trained else ({}, None)
        )
        stack = compile_plan(plan, self.methods)
        task_type, cost = self.task.peft_task_type, TrainingCost()
        if not compute.shares_outputs:
            self.frozen_outputs.clear()
        # Frozen layers are skipped in short runs, whose rows many plans see.
        is_shared = compute.shares_outputs and fidelity.split == "search"
        with (
            self.base.attached(stack.configs, plan=plan, task_type=task_type, seed=fidelity.seed) as model,
            without_cache(model),
            self.frozen_outputs.used_by(model) if is_shared else contextlib.nullcontext(),
        ):
            if heads is not None:
                set_initial_directions(model, directions)
                cost = self._train(model, plan, fidelity, heads=heads, compute=compute)
                if fidelity.split == "confirm" and self.keep_weights is not None:
                    save_weights(model, stack.names, self.keep_weights(plan, fidelity.seed))
            else:
                assert self.keep_weights is not None, "weights are kept for a later test"
                load_weights(model, stack.names, self.keep_weights(plan, fidelity.seed))
            started = time.perf_counter()
            # Short runs rank by the loss; what only generated text can tell is worth its time in full runs.
            evaluation = self.evaluate(
                model,
                fidelity.split,
                n_examples=fidelity.eval_examples,
                generates=fidelity.split != "search",
                compute=compute,
            )
        is_finite = math.isfinite(evaluation.loss)
        return Measurement(
            plan=plan,
            fidelity=fidelity,
            status=Status.COMPLETE if is_finite else Status.DIVERGED,
            metric=evaluation.metric if is_finite else None,
            loss=evaluation.loss if is_finite else None,
            train_seconds=cost.seconds,
            trained_steps=cost.n_steps,
            eval_seconds=time.perf_counter() - started,
            peak_bytes=cost.peak_bytes,
            example_scores=evaluation.example_scores if is_finite else (),
            error=None if is_finite else "diverged: the loss after training is not finite",
        )

    def _eva_directions(self, plan: Plan, compute: Compute) -> dict[str, torch.Tensor]:
        """Site -> initial rows of LoRA's A, for the adapters of a plan that start from data (EVA)."""
        ranks = {a.site: a.rank for a in plan.adapters if dict(a.options).get("init") == "eva"}
        missing = {site: rank for site, rank in ranks.items() if len(self._directions.get(site, ())) < rank}
        if missing:
            batches = self.sample_batches(n_examples=_EVA_EXAMPLES, batch_size=16, seed=0, compute=compute)
            with self.base.autocast():
                directions = input_directions(self.base.module, batches, missing, call=self.task.loss)
            self._directions.update(directions)
        return {site: self._directions[site][:rank] for site, rank in ranks.items()}

    @cached_property
    def head_rates(self) -> HeadRates:
        """The rates of the task head: by the inputs of its maps, or in proportion to the given one."""
        maps = head_maps(self.base)
        batches = self.sample_batches(n_examples=_RMS_EXAMPLES, batch_size=16, seed=0) if maps else ()
        with self.base.autocast():
            rms = input_rms(self.base.module, batches, maps, call=self.task.loss)
        rates = head_rates(self.base, rms)
        return rates if self.head_learning_rate is None else rates.at(self.head_learning_rate)

    @cached_property
    def frozen_outputs(self) -> FrozenOutputs:
        """What frozen layers give for the rows of short runs, shared by their plans."""
        return FrozenOutputs(max_bytes=int(FROZEN_SHARE * self._free_bytes()))

    def _free_bytes(self) -> int:
        return free_bytes(self.base.device, limit_bytes=self.compute.memory_bytes)

    def _train(
        self, model: nn.Module, plan: Plan, fidelity: Fidelity, *, heads: HeadRates, compute: Compute
    ) -> TrainingCost:
        """Train for the steps of the fidelity.

        Where the head alone is trained, the frozen body runs as in evaluation, without dropout: what it gives
        for a row is then the same in every epoch and for every learning rate.
        """
        groups = parameter_groups(model, plan, heads=heads, methods=self.methods)
        if not groups:  # the base model itself
            return TrainingCost()
        self.base.to_train(model)
        if not plan.adapters:
            self.base.body_to_eval()
        n_steps = fidelity.train_steps
        schedule, in_full = RateSchedule(n_steps=n_steps, n_full=n_steps), fidelity
        if fidelity.split == "search" and self.full_steps is not None:
            schedule = short_schedule(n_steps, n_full=self.full_steps)
            in_full = replace(fidelity, split="confirm", train_steps=self.full_steps)
        under_way = None if self.under_way is None else UnderWay(folder=self.under_way(plan, in_full))
        run = TrainingRun(
            steps=self._steps(fidelity, compute),
            sizes=self.splits["train"].sizes,
            batch=partial(self._collated, "train"),
            loss=self._loss,
            schedule=schedule,
            seed=fidelity.seed,
            interrupt=self.interrupt,
            under_way=under_way,
        )
        with self._checkpointing(model, compute), quick_masks(self.base.device):
            return train(model, groups, run, device=self.base.device)

    def saved_bytes(self, plan: Plan, rows: Sequence[int]) -> int:
        """Bytes that rows of the train split, as one micro-batch, keep for the backward pass of a plan."""
        stack, counter = compile_plan(plan, self.methods), SavedBytes()
        task_type, device = self.task.peft_task_type, self.base.device
        with (
            self.base.precision.multiplying(),
            self.base.attached(stack.configs, plan=plan, task_type=task_type, seed=0) as model,
            without_cache(model),
            self._checkpointing(self.base.to_train(model), self.compute),
            forked_rng(device),
            counter.counting(),
        ):
            loss = self._plain_loss(model, self._batch("train", rows))
            n_bytes = counter.total
            del loss
        return n_bytes

    def _checkpointing(self, model: nn.Module, compute: Compute) -> contextlib.AbstractContextManager[None]:
        if compute.checkpointing and can_checkpoint(model):
            return checkpointed(self.base.module)
        return contextlib.nullcontext()

    def _steps(self, fidelity: Fidelity, compute: Compute) -> list[list[Sequence[int]]]:
        """The micro-batches of each training step, as row indices."""
        split, n_steps = self.splits["train"], fidelity.train_steps
        rows = train_rows(split.lengths, n_steps=n_steps, batch_size=self.batch_size, seed=fidelity.seed)
        max_tokens = compute.micro_batch_tokens
        return [micro_batches(step, split.sizes, max_tokens=max_tokens) for step in rows]

    def _loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        self.frozen_outputs.expect(batch, self._plain_loss)
        return self._plain_loss(model, batch)

    def _plain_loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        # Autocast is entered for every step: within one, its cache would keep the first cast of the adapters.
        with self.base.autocast(), heeding_known_masks():
            return self.task.loss(model, batch)

    def evaluate(
        self,
        model: nn.Module,
        split: str,
        *,
        n_examples: int | None = None,
        generates: bool = True,
        compute: Compute | None = None,
    ) -> Evaluation:
        """Metric, loss and per-example scores in dataset order, over a split or a fixed random part.

        `compute` is that of a plan's kind; None is the bench's own.
        """
        compute = compute or self.compute
        sizes = self.splits[split].sizes
        chosen = self.splits[split].subset(len(sizes) if n_examples is None else n_examples)
        order = [chosen[i] for i in sizes[chosen].argsort(kind="stable")]
        model.eval()
        wanted = min(compute.eval_tokens(self.base.device.type), padded_tokens(order, sizes))

        def attempt(max_tokens: int) -> Evaluation:
            if max_tokens < wanted:
                compute.max_eval_tokens = max_tokens
            chunks = micro_batches(order, sizes, max_tokens=max_tokens)
            with self.base.autocast(), heeding_known_masks():
                return self.task.evaluate(model, self._announced(split, chunks), generates=generates)

        largest, before = int(sizes[order].max(initial=0)), compute.max_eval_tokens
        try:
            evaluation = in_smaller_batches(attempt, wanted, smallest=largest, device=self.base.device)
        except NothingToCutError:  # smaller batches were no help, and would slow all later plans
            compute.max_eval_tokens = before
            raise
        if evaluation.metric is None:
            return evaluation
        require_finite(evaluation, metric=self.task.metric)
        scores = dict(zip(order, evaluation.example_scores, strict=True))
        return replace(evaluation, example_scores=tuple(scores[i] for i in chosen))

    def _announced(self, split: str, chunks: Iterable[Sequence[int]]) -> Iterator[Batch]:
        for chunk in chunks:
            batch = self._batch(split, chunk)
            self.frozen_outputs.expect(batch, self._plain_loss)
            yield batch

    def sample_batches(
        self, *, n_examples: int, batch_size: int, seed: int, compute: Compute | None = None
    ) -> list[Batch]:
        """A seeded random sample of the train split, in batches sorted by length, cut as those of a step."""
        split, max_tokens = self.splits["train"], (compute or self.compute).micro_batch_tokens
        chosen = np.random.default_rng(seed).permutation(len(split.lengths))[:n_examples].tolist()
        chosen.sort(key=lambda i: split.lengths[i])
        batches = [chosen[i : i + batch_size] for i in range(0, len(chosen), batch_size)]
        parts = [part for rows in batches for part in micro_batches(rows, split.sizes, max_tokens=max_tokens)]
        return [self._batch("train", part) for part in parts]

    @cached_property
    def batches(self) -> Batches:
        """The batches of the splits on the device."""
        return Batches(
            splits=self.splits,
            task=self.task,
            pad_token_id=self.base.pad_token_id,
            device=self.base.device,
            max_bytes=int(BATCHES_SHARE * self._free_bytes()),
            knows_masks=heeds_known_masks(self.base.module),
        )

    def _batch(self, split: str, rows: Sequence[int]) -> Batch:
        return self._collated(split, rows).batch

    def _collated(self, split: str, rows: Sequence[int]) -> Collated:
        collated = self.batches.get(split, rows)
        self.frozen_outputs.note(collated.batch, split, rows)
        return collated

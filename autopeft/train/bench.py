"""Measures plans: attaches, trains, evaluates and detaches each of them."""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from autopeft.adapters import compile_plan
from autopeft.errors import TrainingError
from autopeft.model import BaseModel, load_weights, release_memory, save_weights
from autopeft.model.devices import SavedBytes, exact_products, forked_rng
from autopeft.model.training_pass import can_checkpoint, checkpointed, quick_attention, without_cache
from autopeft.model.weight_comparison import first_change
from autopeft.plugins import Batch, Evaluation, Method, PlacesBatches, Task
from autopeft.store import write_text
from autopeft.train.compute import (
    Compute,
    NothingToCutError,
    failure_of,
    lower_memory,
    micro_batches,
    padded_tokens,
    unless_out_of_memory,
)
from autopeft.train.dropout import quick_masks
from autopeft.train.encoding import EncodedSplit, train_rows
from autopeft.train.loop import TrainingCost, TrainingRun, train
from autopeft.train.rates import (
    HeadRates,
    RateSchedule,
    head_layers,
    head_rates,
    input_rms,
    parameter_groups,
    short_steps,
)
from autopeft.types import Fidelity, Measurement, Plan, Status

_WARNING_MODELS = ("gpt2", "openai-gpt")  # that warn of batches without an attention mask
_RMS_EXAMPLES = 32  # of the train split, for the size of the head's inputs; heuristic

WRITTEN_TEXTS = "texts.jsonl"  # next to kept weights: what a full run generated for the confirm rows

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Measures plans on one base model, one task and one set of encoded splits."""

    base: BaseModel
    task: Task
    methods: Mapping[str, Method]
    splits: Mapping[str, EncodedSplit]
    batch_size: int
    keep_weights: Callable[[Plan, int], Path] | None = None  # the folder for the weights of a plan and seed
    under_way: Callable[[Plan, Fidelity], Path] | None = None  # the folder of states, to resume a run
    curve: Callable[[Plan, Fidelity], Path] | None = None  # the file of losses
    # Of a full run, which a short run begins. None makes short runs independent, without the late rows.
    full_steps: int | None = None
    head_learning_rate: float | None = None  # of its last layer; None: by the size of its inputs
    compute: Compute = field(default_factory=Compute)

    def measure(self, plan: Plan, fidelity: Fidelity) -> Measurement:
        """Train a plan and evaluate it on the fidelity's split; for the test split load its kept weights.

        If memory runs out in training, the run starts again in less memory. A failure is returned as a
        measurement. Raises TrainingError if a run changed the base model or broke the GPU for later ones.
        """
        started, before = time.perf_counter(), self.base.first_sums
        measurement = self._measure_again_in_less(plan, fidelity)
        if changed := first_change(self.base.module, before):
            raise TrainingError(
                f"Plan {plan.digest} changed {changed} of the base model; this is a bug, please report it."
            )
        overhead = time.perf_counter() - started - measurement.total_seconds
        return replace(measurement, overhead_seconds=max(0.0, overhead))

    def _measure_again_in_less(self, plan: Plan, fidelity: Fidelity) -> Measurement:
        """Measure a plan, in less memory if it runs out in training; undo what does not help."""
        started, compute = time.perf_counter(), self.compute.of(plan)
        before, train_sizes = replace(compute), self.splits["train"].sizes
        for n_lowered in itertools.count():
            try:
                with exact_products(), quick_attention():
                    return self._measure_in_memory(plan, fidelity, compute)
            except Exception as error:  # a failed trial is a value
                log.debug("Trial failed", exc_info=True)
                status, reason = failure_of(error, is_quantized=self.base.n_bits > 0)
                is_final = isinstance(error, NothingToCutError) or fidelity.split == "test"
            release_memory(self.base.device)  # after the handler, whose error holds on to the tensors
            if status is not Status.OUT_OF_MEMORY or is_final:
                break
            steps, may_checkpoint = self._steps(fidelity, compute), can_checkpoint(self.base.module)
            lowered = lower_memory(
                compute, steps, train_sizes, n_lowered=n_lowered, may_checkpoint=may_checkpoint
            )
            if lowered is None:
                break
            log.warning("Memory ran out: plan %s starts again, %s.", plan.digest, lowered)
        vars(compute).update(vars(before))
        seconds = time.perf_counter() - started
        return Measurement(plan=plan, fidelity=fidelity, status=status, error=reason, train_seconds=seconds)

    def _measure_in_memory(self, plan: Plan, fidelity: Fidelity, compute: Compute) -> Measurement:
        is_trained = fidelity.split != "test"
        if is_trained:  # measured on the base model, before adapters are on it
            heads = self.head_rates
        with self._attached(plan, seed=fidelity.seed) as (model, names):
            cost = TrainingCost()
            if is_trained:
                if groups := parameter_groups(model, plan, heads=heads, methods=self.methods):
                    self.base.to_train(model)
                    if not plan.adapters:  # the frozen body then gives the same for a row in every epoch
                        self.base.body_to_eval()
                    run = self._training_run(plan, fidelity, compute)
                    with self._checkpointing(model, compute), quick_masks(self.base.device):
                        cost = train(model, groups, run, device=self.base.device)
                if fidelity.split == "confirm" and self.keep_weights is not None:
                    save_weights(model, names, self.keep_weights(plan, fidelity.seed))
            else:
                assert self.keep_weights is not None, "weights are kept for a later test"
                load_weights(model, names, self.keep_weights(plan, fidelity.seed))
            started = time.perf_counter()
            # Short runs rank by the loss; generating text is worth its time in full runs only.
            evaluation = self.evaluate(
                model,
                fidelity.split,
                n_examples=fidelity.eval_examples,
                generates=fidelity.split != "search",
                compute=compute,
            )
        if evaluation.texts and fidelity.split == "confirm" and self.keep_weights is not None:
            lines = [json.dumps(text._asdict(), ensure_ascii=False) + "\n" for text in evaluation.texts]
            write_text(self.keep_weights(plan, fidelity.seed) / WRITTEN_TEXTS, "".join(lines))
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

    @contextlib.contextmanager
    def _attached(self, plan: Plan, *, seed: int) -> Iterator[tuple[nn.Module, tuple[str, ...]]]:
        """Yield the model with a plan's adapters, and the adapters' names."""
        stack, task_type = compile_plan(plan, self.methods), self.task.peft_task_type
        with (
            self.base.attached(stack.configs, plan=plan, task_type=task_type, seed=seed) as model,
            without_cache(model),
        ):
            yield model, stack.names

    @property
    def n_epochs(self) -> float | None:
        """The epochs of a full run; None if its length is unknown."""
        n_train = len(self.splits["train"].labels)
        return None if self.full_steps is None else self.full_steps * self.batch_size / n_train

    @cached_property
    def head_rates(self) -> HeadRates:
        """Learning rates of the task head, scaled to `head_learning_rate`."""
        layers = head_layers(self.base)
        batches = self.sample_batches(n_examples=_RMS_EXAMPLES, batch_size=16, seed=0) if layers else ()
        with self.base.autocast():
            rms = input_rms(self.base.module, batches, layers, call=self.task.loss)
        rates = head_rates(self.base, rms, n_epochs=self.n_epochs)
        return rates if self.head_learning_rate is None else rates.at(self.head_learning_rate)

    def _training_run(self, plan: Plan, fidelity: Fidelity, compute: Compute) -> TrainingRun:
        n_steps = n_full = fidelity.train_steps
        if fidelity.split == "search" and self.full_steps is not None:
            n_full = self.full_steps
        # A short run keeps its state in the folder of its full run, which continues from it.
        in_full = replace(fidelity, split="confirm", train_steps=n_full)
        return TrainingRun(
            steps=self._steps(fidelity, compute),
            sizes=self.splits["train"].sizes,
            batch=partial(self.collate, "train"),
            loss=self._loss,
            schedule=RateSchedule(n_steps=n_steps, n_full=n_full),
            seed=fidelity.seed,
            scales_gradients=self.base.precision.dtype == "float16",
            curve=None if self.curve is None else self.curve(plan, fidelity),
            under_way=None if self.under_way is None else self.under_way(plan, in_full),
        )

    def saved_bytes(self, plan: Plan, rows: Sequence[int]) -> int:
        """Count the bytes that train rows, as one micro-batch, keep for a backward pass."""
        counter = SavedBytes()
        with (
            exact_products(),
            quick_attention(),
            self._attached(plan, seed=0) as (model, _),
            self._checkpointing(self.base.to_train(model), self.compute),
            forked_rng(),
            counter.counting(),
        ):
            loss = self._loss(model, self.collate("train", rows)[0])
            n_bytes = counter.total
            del loss
        return n_bytes

    def _checkpointing(self, model: nn.Module, compute: Compute) -> contextlib.AbstractContextManager[None]:
        if compute.checkpointing and can_checkpoint(model):
            return checkpointed(self.base.module)
        return contextlib.nullcontext()

    def _steps(self, fidelity: Fidelity, compute: Compute) -> list[list[Sequence[int]]]:
        """Cut each training step into micro-batches, as row indices."""
        split, n_steps = self.splits["train"], fidelity.train_steps
        rows = train_rows(
            split.lengths,
            n_steps=n_steps,
            batch_size=self.batch_size,
            seed=fidelity.seed,
            n_late=split.n_late,
            late_from=n_steps if self.full_steps is None else short_steps(self.full_steps),
        )
        max_tokens = compute.micro_batch_tokens
        return [micro_batches(step, split.sizes, max_tokens=max_tokens) for step in rows]

    def _loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        # Autocast is entered for every step: within one, its cache would keep the first cast of the adapters.
        with self.base.autocast():
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
        """Evaluate a model on a split, or on `n_examples` of it, the same for all plans.

        Example scores are in dataset order. If memory runs out, the limits of `compute`, or of the bench, are
        halved. Raises NothingToCutError if a single row is too large.
        """
        compute = compute or self.compute
        sizes = self.splits[split].sizes
        rows = self.splits[split].subset(len(sizes) if n_examples is None else n_examples)
        by_size = [rows[i] for i in sizes[rows].argsort(kind="stable")]
        model.eval()
        max_tokens = min(compute.eval_tokens(self.base.device.type), padded_tokens(by_size, sizes))
        smallest, n_fitting = int(sizes[by_size].max(initial=0)), None

        def evaluate_in_chunks() -> Evaluation:
            chunks = micro_batches(by_size, sizes, max_tokens=max_tokens)
            with self.base.autocast():
                batches = (self.collate(split, chunk)[0] for chunk in chunks)
                return self.task.evaluate(model, batches, generates=generates)

        while (evaluation := unless_out_of_memory(self.base.device, evaluate_in_chunks)) is None:
            if max_tokens <= smallest:
                raise NothingToCutError("memory ran out at one row")
            max_tokens = n_fitting = max(max_tokens // 2, smallest)
        if n_fitting is not None:
            compute.max_eval_tokens = n_fitting
        if evaluation.metric is None:
            return evaluation
        values = (evaluation.metric, *evaluation.example_scores)  # perhaps of a plug-in's metric
        if math.isfinite(evaluation.loss) and not all(map(math.isfinite, values)):
            raise ValueError(f"the metric {self.task.metric.name} is not finite, although the loss is")
        in_order = np.argsort(by_size).tolist()  # rows ascend
        scores, texts = evaluation.example_scores, evaluation.texts
        return replace(
            evaluation,
            example_scores=tuple(scores[i] for i in in_order),
            texts=tuple(texts[i] for i in in_order if texts),
        )

    def sample_batches(self, *, n_examples: int, batch_size: int, seed: int) -> list[Batch]:
        """Draw a sample of the train split, sorted by length, in micro-batches."""
        split, max_tokens = self.splits["train"], self.compute.micro_batch_tokens
        sample = np.random.default_rng(seed).permutation(split.n_early)[:n_examples].tolist()
        sample.sort(key=lambda i: split.lengths[i])
        steps = (sample[i : i + batch_size] for i in range(0, len(sample), batch_size))
        cut = (micro_batches(step, split.sizes, max_tokens=max_tokens) for step in steps)
        return [self.collate("train", rows)[0] for batches in cut for rows in batches]

    @cached_property
    def omits_masks(self) -> bool:
        """Whether batches have no mask: no token of a causal model attends to the padding on its right.

        On a GPU, a mask would rule out flash attention by torch's kernels, and transformers waits for the
        device to look for padding in it: at each pass, with FlashAttention 2 in each layer.
        """
        if self.base.device.type != "cuda" or self.task.peft_task_type != "CAUSAL_LM":
            return False
        is_causal = all(getattr(module, "is_causal", True) for module in self.base.module.modules())
        return is_causal and self.base.model_type not in _WARNING_MODELS

    def collate(self, split: str, rows: Sequence[int]) -> tuple[Batch, int]:
        """Return a batch of rows on the device, and the number of terms that its loss averages."""
        examples, labels = self.splits[split].examples, self.splits[split].labels
        batch = self.task.collate(
            [examples[i] for i in rows], [labels[i] for i in rows], self.base.pad_token_id
        )
        n_terms = self.task.n_terms(batch)  # counted on the CPU, so that nothing waits for the device
        if self.omits_masks:
            batch.pop("attention_mask", None)
        if isinstance(self.task, PlacesBatches):
            return self.task.placed(batch, self._place), n_terms
        return {name: self._place(tensor) for name, tensor in batch.items()}, n_terms

    def _place(self, tensor: torch.Tensor) -> torch.Tensor:
        if self.base.device.type != "cuda":
            return tensor.to(self.base.device)
        # The device copies this batch while it computes the step before.
        return tensor.pin_memory().to(self.base.device, non_blocking=True)

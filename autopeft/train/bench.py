"""Where plans are measured: one base model, one task, one set of encoded splits."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import nn

from autopeft.adapters import compile_plan
from autopeft.errors import SiteError, TrainingError
from autopeft.extension import Batch, Evaluation, Method, Task
from autopeft.model import (
    BaseModel,
    input_directions,
    input_rms,
    load_weights,
    save_weights,
    set_initial_directions,
)
from autopeft.records import Fidelity, Measurement, Plan, Status
from autopeft.train.course import full_course, rung_course
from autopeft.train.loop import DivergedError, Run, Trained, train
from autopeft.train.rates import HeadRates, head_maps, head_rates, parameter_groups
from autopeft.train.splits import EncodedSplit, train_rows

_EVA_EXAMPLES = 128  # of the train split; chosen by hand
_RMS_EXAMPLES = 32  # likewise
_EVAL_BATCH = 64  # chosen by hand; examples are sorted by length, so there is next to no padding
_READ_ONLY = ("test", "general")  # splits for which nothing is trained
_EVAL_LOGITS = 2**26  # numbers that a language model may give at once, 256 MiB; chosen by hand

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Where plans are measured: one base model, one task, one set of encoded splits.

    `keep_weights` says where the weights of a confirmation go, or are read from for the
    test split; None keeps none. `paused` says where the state of a plan's rungs goes, so that the next
    one takes it up; None trains every rung from the start. `rung_steps` are those of the search. With `dtype`
    bfloat16 forward passes run under autocast; weights, gradients and AdamW stay in float32. `general` is the
    task that the split of that name is read with, where there is one.
    """

    base: BaseModel
    task: Task
    methods: Mapping[str, Method]
    splits: Mapping[str, EncodedSplit]
    batch_size: int
    keep_weights: Callable[[Plan, int], Path] | None = None
    paused: Callable[[Plan, int], Path] | None = None
    rung_steps: tuple[int, ...] = ()
    base_sha256: str = field(default="")
    dtype: str = "float32"
    general: Task | None = None
    _known: dict[str, torch.Tensor] = field(default_factory=dict)
    _heads: list[HeadRates] = field(default_factory=list)

    def measure(self, plan: Plan, fidelity: Fidelity) -> Measurement:
        """Train a plan on the train split and evaluate it on the fidelity's split.

        On the test split and the general text nothing is trained: the weights that the confirmation kept
        for the same plan and seed are loaded, with 0 steps none, which is the base model. A failure of any
        kind comes back as a measurement (status DIVERGED or FAIL); the base model is checked to be as it was.

        Raises:
            TrainingError: The base model was changed by the trial, so no later one could be trusted.
        """
        started = time.perf_counter()
        try:
            measurement = self._measure(plan, fidelity)
        except Exception as error:  # the one place: a failed trial is a value
            log.debug("Trial failed", exc_info=True)
            reason = f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0]}"
            seconds = time.perf_counter() - started
            status = Status.DIVERGED if isinstance(error, DivergedError) else Status.FAIL
            measurement = Measurement(
                plan=plan, fidelity=fidelity, status=status, error=reason, train_seconds=seconds
            )
        if self.base_sha256 and self.base.sha256() != self.base_sha256:
            raise TrainingError(
                f"Plan {plan.digest} changed the weights of the base model; this is a bug, please report it."
            )
        return measurement

    def _measure(self, plan: Plan, fidelity: Fidelity) -> Measurement:
        self._require_room(plan)
        directions, heads = self._directions(plan), self.head_rates()  # both of the base model as it is
        stack = compile_plan(plan, self.methods)
        task_type = self.task.peft_task_type
        with self.base.attached(stack.configs, plan=plan, task_type=task_type, seed=fidelity.seed) as model:
            if fidelity.split in _READ_ONLY:
                trained = Trained(seconds=0.0, n_steps=0, peak_bytes=0)
                if fidelity.train_steps:
                    load_weights(model, stack.names, self._weights(plan, fidelity.seed))
            else:
                set_initial_directions(model, directions)
                trained = self._train(model, plan, fidelity, heads=heads)
                if fidelity.split == "confirm" and self.keep_weights is not None:
                    save_weights(model, stack.names, self._weights(plan, fidelity.seed))
            started = time.perf_counter()
            seen = self.evaluate(model, fidelity.split, n_examples=fidelity.eval_examples)
        finite = math.isfinite(seen.loss)
        return Measurement(
            plan=plan,
            fidelity=fidelity,
            status=Status.COMPLETE if finite else Status.DIVERGED,
            metric=seen.metric if finite else None,
            loss=seen.loss if finite else None,
            train_seconds=trained.seconds,
            trained_steps=trained.n_steps,
            eval_seconds=time.perf_counter() - started,
            peak_bytes=trained.peak_bytes,
            example_scores=seen.example_scores if finite else (),
            error=None if finite else "diverged: the loss after training is not finite",
        )

    def _require_room(self, plan: Plan) -> None:
        """Refuse virtual tokens beside which the texts do not fit into the model's positions."""
        allowed = self.base.max_tokens(plan)
        longest = max(max(split.lengths) for split in self.splits.values())
        if allowed is not None and longest > allowed:
            raise SiteError(
                f"The longest text has {longest} tokens, and beside the plan's virtual tokens there is "
                f"place for {allowed}; lower --max-length, or the rank of the prompt."
            )

    def _directions(self, plan: Plan) -> dict[str, torch.Tensor]:
        """Where the adapters that start from data (EVA) point at first; found once for each site and rank."""
        asked = {a.site: a.rank for a in plan.adapters if dict(a.options).get("init") == "eva"}
        missing = {site: rank for site, rank in asked.items() if len(self._known.get(site, ())) < rank}
        if missing:
            batches = self.sample_batches(n_examples=_EVA_EXAMPLES, batch_size=16, seed=0)
            self._known.update(input_directions(self.base.module, batches, missing))
        return {site: self._known[site][:rank] for site, rank in asked.items()}

    def head_rates(self) -> HeadRates:
        """The learning rates of the task head, from what it is given by the base model; found once."""
        if not self._heads:
            maps, rms = head_maps(self.base), {}
            if maps:
                batches = self.sample_batches(n_examples=_RMS_EXAMPLES, batch_size=16, seed=0)
                rms = input_rms(self.base.module, batches, maps, call=self.task.loss)
            self._heads.append(head_rates(self.base, rms))
        return self._heads[0]

    def _weights(self, plan: Plan, seed: int) -> Path:
        assert self.keep_weights is not None, "no place for weights was given"
        return self.keep_weights(plan, seed)

    def _train(self, model: nn.Module, plan: Plan, fidelity: Fidelity, *, heads: HeadRates) -> Trained:
        """A rung, leg by leg, where the search split judges it, else a run of its own."""
        is_rung = fidelity.split == "search"
        n_steps, lengths = fidelity.train_steps, self.splits["train"].lengths
        rows = train_rows(lengths, n_steps=n_steps, batch_size=self.batch_size, seed=fidelity.seed)
        run = Run(
            rows=rows,
            widths=[max(lengths[i] for i in step) for step in rows],
            batch=lambda indices: self._batch("train", indices),
            loss=self._loss,
            course=rung_course(n_steps, rung_steps=self.rung_steps) if is_rung else full_course(n_steps),
            seed=fidelity.seed,
            paused=self.paused(plan, fidelity.seed) if is_rung and self.paused is not None else None,
        )
        groups = parameter_groups(model, plan, heads=heads, methods=self.methods)
        if not groups:  # the base model as it is
            return Trained(seconds=0.0, n_steps=0, peak_bytes=0)
        return train(model, groups, run, device=self.base.device)

    def _loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """Autocast is entered anew for every step: its cache would keep the first cast of the adapters."""
        with self._precision():
            return self.task.loss(model, batch)

    def _precision(self) -> contextlib.AbstractContextManager[None]:
        kind, wanted = self.base.device.type, self.dtype == "bfloat16"
        return torch.autocast(kind, dtype=torch.bfloat16) if wanted else contextlib.nullcontext()

    def evaluate(self, model: nn.Module, split: str, *, n_examples: int | None = None) -> Evaluation:
        """Metric, loss and scores in dataset order over a split, or over a fixed random part of it."""
        task = self.general if split == "general" else self.task
        assert task is not None, "no task was given for general text"
        lengths = self.splits[split].lengths
        chosen = self.splits[split].subset(len(lengths) if n_examples is None else n_examples)
        order = sorted(chosen, key=lambda i: lengths[i])
        model.eval()
        at_once = self._eval_batch(max((lengths[i] for i in order), default=1))
        chunks = (order[i : i + at_once] for i in range(0, len(order), at_once))
        with self._precision():
            seen = task.evaluate(model, (self._batch(split, chunk) for chunk in chunks))
        scores = dict(zip(order, seen.example_scores, strict=True))
        return Evaluation(metric=seen.metric, loss=seen.loss, example_scores=tuple(scores[i] for i in chosen))

    def _eval_batch(self, longest: int) -> int:
        """Examples at once: fewer where each token has a prediction over all words."""
        words = getattr(self.base.module, "get_output_embeddings", lambda: None)()
        n_words = 1 if words is None else len(words.weight)
        return max(1, min(_EVAL_BATCH, _EVAL_LOGITS // (longest * n_words)))

    def sample_batches(self, *, n_examples: int, batch_size: int, seed: int) -> list[Batch]:
        """A seeded sample of the train split, in batches sorted by length, for the sensitivity scores."""
        lengths = self.splits["train"].lengths
        rng = np.random.default_rng(seed)
        chosen = rng.permutation(len(lengths))[:n_examples].tolist()
        chosen.sort(key=lambda i: lengths[i])
        return [self._batch("train", chosen[i : i + batch_size]) for i in range(0, len(chosen), batch_size)]

    def _batch(self, split: str, indices: Sequence[int]) -> Batch:
        rows = self.splits[split]
        examples = [rows.examples[i] for i in indices]
        batch = self.task.collate(examples, [rows.labels[i] for i in indices], self.base.pad_token_id)
        return {name: tensor.to(self.base.device) for name, tensor in batch.items()}

"""The one training loop: a plan and a fidelity become a measurement."""

from __future__ import annotations

import logging
import math
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from peft import PeftConfig
from torch import nn

from autopeft.data import LabelledData
from autopeft.errors import ModelError, SiteError, TrainingError
from autopeft.extension import Batch, Evaluation, Example, Method, Task
from autopeft.model import (
    BaseModel,
    SavedBytes,
    adapter_names,
    input_directions,
    load_weights,
    point,
    save_weights,
)
from autopeft.records import Adapter, Fidelity, Measurement, Plan, Status

SCHEDULE = (
    "linear decay to 0 after 6 % warm-up; AdamW, no weight decay, gradient norm clipped at 1; "
    "task head at 10 / inputs at its output layer and 1 / inputs below it, "
    "or in proportion, the output layer at the plan's rate, where nothing else is trained"
)
# One rate for adapters and head confounds methods with rates: on clinc_domain10, 53 steps, LoRA at
# 4e-3 gets 74 % with the head at its own rate and 85 % with the head at 3e-2, which is what IA3's
# rate gives the head anyway (reports/LOG.md, 2026-11-25). AdamW moves a logit by about rate × inputs.
# Layers of the head below it learn worse at that rate (two seeds, MiniLM with a new pooler: 0.885 at
# 2.6e-2, 0.904 to 0.930 at 2.7e-3), so they take a tenth.
_OUTPUT_RATE_TIMES_INPUTS = 10.0
_WARMUP_SHARE = 0.06  # as in RoBERTa, Liu et al. 2019, arXiv:1907.11692
_CLIP_NORM = 1.0
_EVA_EXAMPLES = 128  # of the train split; chosen by hand
_EVAL_BATCH = 64  # chosen by hand; examples are sorted by length, so there is next to no padding
_SORTED_BATCHES = 16  # batches that are sorted by length together, so that their rows need little padding

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class EncodedSplit:
    """One split as token features; the two tuples have one entry per example."""

    examples: tuple[Example, ...]
    labels: tuple[int, ...]

    @property
    def lengths(self) -> list[int]:
        """Tokens per example."""
        return [len(example["input_ids"]) for example in self.examples]


def encode_splits(
    data: LabelledData, *, base: BaseModel, task: Task, max_length: int
) -> dict[str, EncodedSplit]:
    """Every non-empty split of a dataset as token features, by name."""
    longest = min(max_length, _context_length(base))
    encoded = {}
    for split in (data.train, data.search, data.confirm, data.test):
        if split.texts:
            examples = task.encode(split.texts, base.tokenizer, longest)
            _require_known_tokens(examples, base)
            encoded[split.name] = EncodedSplit(examples=tuple(examples), labels=split.labels)
    return encoded


def _require_known_tokens(examples: Sequence[Example], base: BaseModel) -> None:
    embeddings = base.module.get_input_embeddings()  # type: ignore[operator]
    largest = max((max(example["input_ids"], default=0) for example in examples), default=0)
    if largest >= len(embeddings.weight):
        raise ModelError(
            f"The tokenizer of {base.name} gives token {largest}, the model knows {len(embeddings.weight)}; "
            "put the tokenizer and the weights of one model together."
        )


def _context_length(base: BaseModel) -> int:
    """What the tokenizer and the model's positions allow, in tokens; very large where neither says."""
    return min(int(base.tokenizer.model_max_length or 10**9), base.max_tokens() or 10**9)


def compile_plan(plan: Plan, methods: Mapping[str, Method]) -> list[PeftConfig]:
    """The `peft` configs of a plan, in the order in which they are attached; none for the head alone.

    A method whose sites share a state comes first, what wraps the whole model (a prompt) last,
    the others in the order of their names.
    """
    return [config for config, _ in _compiled(plan, methods)]


def _compiled(plan: Plan, methods: Mapping[str, Method]) -> list[tuple[PeftConfig, float]]:
    """Each config with the factor on its learning rate."""
    groups: dict[tuple[str, float], list[Adapter]] = defaultdict(list)
    for adapter in plan.adapters:
        groups[adapter.method, adapter.rate_factor].append(adapter)
    found = [
        (config, not methods[name].shared, factor)
        for (name, factor), adapters in sorted(groups.items())
        for config in methods[name].configs(adapters)
    ]
    found.sort(key=lambda entry: (entry[0].is_prompt_learning, entry[1]))  # stable
    return [(config, factor) for config, _, factor in found]


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Where plans are measured: one base model, one task, one set of encoded splits.

    `keep_weights` says where the weights of a confirmation go, or are read from for the
    test split; None keeps none.
    """

    base: BaseModel
    task: Task
    methods: Mapping[str, Method]
    splits: Mapping[str, EncodedSplit]
    batch_size: int
    keep_weights: Callable[[Plan, int], Path] | None = None
    base_sha256: str = field(default="")
    _known: dict[str, torch.Tensor] = field(default_factory=dict)

    def measure(self, plan: Plan, fidelity: Fidelity) -> Measurement:
        """Train a plan on the train split and evaluate it on the fidelity's split.

        On the test split nothing is trained: the weights that the confirmation kept for
        the same plan and seed are loaded. A failure of any kind comes back as a
        measurement with status FAIL; the base model is checked to be as it was.

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
            measurement = Measurement(
                plan=plan, fidelity=fidelity, status=Status.FAIL, error=reason, train_seconds=seconds
            )
        if self.base_sha256 and self.base.sha256() != self.base_sha256:
            raise TrainingError(
                f"Plan {plan.digest} changed the weights of the base model; this is a bug, please report it."
            )
        return measurement

    def _measure(self, plan: Plan, fidelity: Fidelity) -> Measurement:
        self._require_room(plan)
        directions = self._directions(plan)
        configs = compile_plan(plan, self.methods)
        task_type = self.task.peft_task_type
        with self.base.attached(configs, plan=plan, task_type=task_type, seed=fidelity.seed) as model:
            names = adapter_names(configs)
            if fidelity.split == "test":
                train_seconds, peak_bytes = 0.0, 0
                load_weights(model, names, self._weights(plan, fidelity.seed))
            else:
                point(model, directions)
                train_seconds, peak_bytes = self._train(model, plan, fidelity)
                if fidelity.split == "confirm" and self.keep_weights is not None:
                    save_weights(model, names, self._weights(plan, fidelity.seed))
            started = time.perf_counter()
            seen = self.evaluate(model, fidelity.split, n_examples=fidelity.eval_examples)
        finite = math.isfinite(seen.loss)
        return Measurement(
            plan=plan,
            fidelity=fidelity,
            status=Status.COMPLETE if finite else Status.FAIL,
            metric=seen.metric if finite else None,
            loss=seen.loss if finite else None,
            train_seconds=train_seconds,
            eval_seconds=time.perf_counter() - started,
            peak_bytes=peak_bytes,
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

    def _weights(self, plan: Plan, seed: int) -> Path:
        assert self.keep_weights is not None, "no place for weights was given"
        return self.keep_weights(plan, seed)

    def _train(self, model: nn.Module, plan: Plan, fidelity: Fidelity) -> tuple[float, int]:
        """Seconds of training, and bytes counted on the step with the most tokens."""
        started = time.perf_counter()
        parameters = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(self._parameter_groups(model, plan), weight_decay=0.0)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _multiplier(fidelity.train_steps))
        rows = self._train_batches(fidelity)
        lengths = self.splits["train"].lengths
        widest = max(range(len(rows)), key=lambda step: max(lengths[i] for i in rows[step]))
        saved_bytes = 0
        model.train()
        with torch.random.fork_rng(devices=_cuda_devices(self.base.device)):
            torch.manual_seed(fidelity.seed)  # dropout
            for step, indices in enumerate(rows):
                batch = self._batch("train", indices)
                counter = SavedBytes() if step == widest else None
                with counter.counting() if counter else torch.enable_grad():
                    loss = self.task.loss(model, batch)
                saved_bytes = counter.total if counter else saved_bytes
                if not math.isfinite(float(loss.detach())):
                    raise FloatingPointError(
                        f"diverged at step {step + 1} of {len(rows)}: the loss is not finite"
                    )
                loss.backward()  # type: ignore[no-untyped-call]
                nn.utils.clip_grad_norm_(parameters, _CLIP_NORM)
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
        trained_bytes = sum(p.numel() * p.element_size() for p in parameters)
        # gradients once, AdamW's two moments
        return time.perf_counter() - started, saved_bytes + 3 * trained_bytes

    def _parameter_groups(self, model: nn.Module, plan: Plan) -> list[dict[str, Any]]:
        """Adapters at the plan's learning rate, the task head at the same rates for every plan.

        Where the head alone is trained its output layer takes the plan's rate, which is searched.
        """
        compiled = _compiled(plan, self.methods)
        names = adapter_names([config for config, _ in compiled])
        factors = {name: factor for name, (_, factor) in zip(names, compiled, strict=False)}
        heads = self._head_rates(model)
        output_rate = max(heads.values(), default=1.0)
        scale = 1.0 if plan.adapters else plan.learning_rate / output_rate
        groups: dict[float, list[nn.Parameter]] = {}
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                own = next((factors[part] for part in name.split(".") if part in factors), 1.0)
                rate = scale * heads[name] if name in heads else own * plan.learning_rate
                groups.setdefault(rate, []).append(parameter)
        return [{"params": params, "lr": rate} for rate, params in groups.items()]

    def _head_rates(self, model: nn.Module) -> dict[str, float]:
        """Learning rate by name for the head's parameters, from the inputs of each of its linear maps."""
        n_labels = int(cast(Any, self.base.module.config).num_labels)
        rates = {}
        for name, module in model.named_modules():
            if "modules_to_save" in name.split("."):
                weight = getattr(module, "weight", None)
                is_linear = isinstance(module, nn.Linear)
                times = _OUTPUT_RATE_TIMES_INPUTS if is_linear and module.out_features == n_labels else 1.0
                n_inputs = module.in_features if is_linear else getattr(weight, "shape", (1,))[-1]
                for own, parameter in module.named_parameters(recurse=False):
                    if parameter.requires_grad:
                        rates[f"{name}.{own}"] = times / n_inputs
        return rates

    def _train_batches(self, fidelity: Fidelity) -> list[list[int]]:
        """Rows of each step; they depend on the seed alone, so that plans see the same order."""
        lengths = self.splits["train"].lengths
        rng = np.random.default_rng(fidelity.seed)
        batch_size = min(self.batch_size, len(lengths))
        batches: list[list[int]] = []
        while len(batches) < fidelity.train_steps:
            batches += epoch_batches(lengths, batch_size=batch_size, rng=rng)
        return batches[: fidelity.train_steps]

    def evaluate(self, model: nn.Module, split: str, *, n_examples: int | None = None) -> Evaluation:
        """Metric, loss and scores in dataset order over the first `n_examples` of a split."""
        lengths = self.splits[split].lengths[:n_examples]
        order = sorted(range(len(lengths)), key=lambda i: lengths[i])
        model.eval()
        chunks = (order[i : i + _EVAL_BATCH] for i in range(0, len(order), _EVAL_BATCH))
        seen = self.task.evaluate(model, (self._batch(split, chunk) for chunk in chunks))
        scores = dict(zip(order, seen.example_scores, strict=True))
        return Evaluation(
            metric=seen.metric, loss=seen.loss, example_scores=tuple(scores[i] for i in range(len(order)))
        )

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
        batch = self.task.collate(
            examples, [rows.labels[i] for i in indices], self.base.tokenizer.pad_token_id
        )
        return {name: tensor.to(self.base.device) for name, tensor in batch.items()}


def epoch_batches(lengths: Sequence[int], *, batch_size: int, rng: np.random.Generator) -> list[list[int]]:
    """One epoch of full batches in random order, each of rows of similar length.

    Rows are shuffled, sorted by length within runs of 16 batches, and cut; the rows left
    over at the end wait for another epoch. Padding falls from about half to a tenth.

    Example:
        >>> epoch_batches([3, 9, 3, 9], batch_size=2, rng=np.random.default_rng(0))
        [[1, 3], [0, 2]]
    """
    order = rng.permutation(len(lengths)).tolist()
    run = batch_size * _SORTED_BATCHES
    batches: list[list[int]] = []
    for start in range(0, len(order), run):
        rows = sorted(order[start : start + run], key=lambda i: (lengths[i], i))
        batches += [rows[i : i + batch_size] for i in range(0, len(rows), batch_size)]
    full = [batch for batch in batches if len(batch) == batch_size]
    return [full[i] for i in rng.permutation(len(full))]


def head_alone_rates(base: BaseModel) -> tuple[float, float]:
    """The range of learning rates to try where the head alone is trained, by its output layer's inputs.

    (1.2, 115) / inputs is 3e-3 to 3e-1 for MiniLM's 384, where 0.1 was best of three; chosen by hand.
    """
    n_labels = int(cast(Any, base.module.config).num_labels)
    inputs = [
        layer.in_features
        for name in base.head_names
        for layer in base.module.get_submodule(name).modules()
        if isinstance(layer, nn.Linear) and layer.out_features == n_labels
    ]
    n_inputs = max(inputs, default=384)
    return 1.2 / n_inputs, 115 / n_inputs


def full_run_steps(*, n_train: int, batch_size: int, epochs: float, max_steps: int | None) -> int:
    """Optimizer steps of one full run."""
    per_epoch = max(1, n_train // min(batch_size, n_train))
    return max_steps or max(1, math.ceil(epochs * per_epoch))


def _multiplier(n_steps: int) -> Callable[[int], float]:
    """Learning rate as a share of its peak, by step from 0."""
    warmup = max(1, round(_WARMUP_SHARE * n_steps))
    return lambda step: min((step + 1) / warmup, max(0.0, (n_steps - step) / max(1, n_steps - warmup + 1)))


def _cuda_devices(device: torch.device) -> list[torch.device]:
    return [device] if device.type == "cuda" else []

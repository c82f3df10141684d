"""The record of tasks with one label, several labels or a number per example, and their loss and metric."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from autopeft.data import ReadRows
from autopeft.extension import Batch, Encoded, Evaluation, Example, Metric, Target, discover
from autopeft.records import TaskSpec
from autopeft.tasks.parts.padding import without_labels
from autopeft.tasks.parts.targets import require_kind, require_metric

if TYPE_CHECKING:
    from typing_extensions import Self

# Classes are uneven where the most frequent is this many times as frequent as the rarest. Chosen by hand:
# poem_sentiment has 11 (always guessing the majority gives 66 % accuracy, TF-IDF 69 % with a macro-F1 of
# 0.37), banking77 has 5.
_UNEVEN = 10


@dataclass(frozen=True, kw_only=True)
class LabelledTask:
    """A task learned from the logits (B, C) of a model's head.

    `encode` makes the features of rows, `collate_inputs` a batch of them from examples, the padding token's
    id and the tokenizer or image processor. `kinds` are the kinds of `Target` that the task learns.
    """

    name: str
    read_rows: ReadRows
    auto_class: str
    encode: Callable[[Sequence[Sequence[Any]], Sequence[Any], Any, int], Encoded]
    collate_inputs: Callable[[Sequence[Example], int, Any], Batch]
    peft_task_type: str | None = None
    kinds: tuple[str, ...] = ("class", "classes", "number")
    target: Target = field(default_factory=Target)
    chosen_metric: str | None = None
    notes: tuple[str, ...] = ()
    tokenizer: Any = field(default=None, repr=False, compare=False)

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the metrics that judge the target's kind, its default first."""
        known = discover("autopeft.metrics")
        names = [name for name, metric in known.items() if self.target.kind in metric.kinds]
        return tuple(sorted(names, key=lambda name: self.target.kind not in known[name].default_for))

    @property
    def metric(self) -> str:
        """The metric that the user or `fitted` has chosen, else the default of the target's kind."""
        return self.chosen_metric or self.metrics[0]

    @property
    def greater_is_better(self) -> bool:
        """As for the metric."""
        return _metric(self.metric).greater_is_better

    @property
    def is_share(self) -> bool:
        """As for the metric."""
        return _metric(self.metric).is_share

    @property
    def score_span(self) -> float | None:
        """As for the metric."""
        return _metric(self.metric).score_span

    def fitted(self, spec: TaskSpec, target: Target, tokenizer: Any = None) -> Self:
        """The task for a dataset; its metric is the user's, else the default of its target."""
        require_kind(self.name, target, self.kinds)
        task = replace(self, target=target, tokenizer=tokenizer, chosen_metric=spec.metric, notes=())
        if spec.metric is not None:
            require_metric(f"{self.name} ({target.kind})", spec.metric, task.metrics)
        elif _is_uneven(target):
            metrics = discover("autopeft.metrics").values()
            uneven_metric = next(metric.name for metric in metrics if "uneven" in metric.default_for)
            note = _uneven_note(target, uneven_metric, instead_of=task.metric)
            task = replace(task, chosen_metric=uneven_metric, notes=(note,))
        return task

    def collate(self, examples: Sequence[Example], labels: Sequence[Any], pad_token_id: int) -> Batch:
        """One batch: features, and `labels` (B,), or (B, C) for several labels per example."""
        features = self.collate_inputs(examples, pad_token_id, self.tokenizer)
        return {**features, "labels": _label_tensor(self.target, labels)}

    def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """Mean of the examples' losses, shape ()."""
        return _losses(self.target, _logits(model, batch), batch["labels"]).mean()

    def draw_labels(self, logits: torch.Tensor, generator: torch.Generator) -> torch.Tensor | None:
        """Several labels (B, C) of 0 and 1, drawn independently; numbers (B,) around the prediction.

        Up to a constant, the squared error is twice the -log p of a normal distribution with train's
        variance, and the mean loss over C labels is 1 / C times the -log p of C coins. None for one class.

        Source: Kunstner et al. 2019, arXiv:1905.12558, equation 1, on losses as -log p; the variance is ours.
        """
        if self.target.kind == "classes":
            return torch.bernoulli(logits.sigmoid(), generator=generator)
        if self.target.kind == "number":
            return logits[:, 0] + self.target.std * torch.randn(len(logits), generator=generator)
        return None

    def evaluate(self, model: nn.Module, batches: Iterator[Batch]) -> Evaluation:
        """The metric, the mean loss, and one score per example, without gradients."""
        losses: list[torch.Tensor] = []
        guesses: list[torch.Tensor] = []
        truth: list[torch.Tensor] = []
        with torch.inference_mode():
            for batch in batches:
                logits = _logits(model, batch)
                guesses.append(_guesses(self.target, logits))
                truth.append(batch["labels"])
                losses.append(_losses(self.target, logits, truth[-1]))
        guessed = torch.cat(guesses).cpu().numpy().astype(float)
        loss = float(torch.cat(losses).double().mean())
        if not np.isfinite(guessed).all():  # the run diverged, and the loss is not finite either
            nan = float("nan")
            return Evaluation(metric=nan, loss=loss, example_scores=(nan,) * len(guessed))
        value, scores = _metric(self.metric).score(torch.cat(truth).cpu().numpy().astype(float), guessed)
        return Evaluation(metric=value, loss=loss, example_scores=scores)


def _metric(name: str) -> Metric:
    metric: Metric = discover("autopeft.metrics")[name]
    return metric


def _is_uneven(target: Target) -> bool:
    counts = target.counts if target.kind == "class" else ()
    return bool(counts) and max(counts) >= _UNEVEN * max(1, min(counts))


def _uneven_note(target: Target, metric: str, *, instead_of: str) -> str:
    most, least = max(target.counts), min(target.counts)
    names = [target.names[target.counts.index(count)] for count in (most, least)]
    return (
        f"The labels are uneven ({names[0]} {most}, {names[1]} {least} in train), so the metric is {metric}; "
        f"set --metric {instead_of} to have {instead_of}."
    )


def _logits(model: nn.Module, batch: Batch) -> torch.Tensor:
    """Logits (B, C) in fp32, whatever the model computes in."""
    logits: torch.Tensor = model(**without_labels(batch)).logits
    return logits.float()


def _label_tensor(target: Target, labels: Sequence[Any]) -> torch.Tensor:
    """Classes (B,), int64; numbers (B,); several labels (B, C) of 0 and 1."""
    if target.kind == "number":
        return torch.tensor(labels, dtype=torch.float32)
    if target.kind != "classes":
        return torch.tensor(labels, dtype=torch.long)
    several = torch.zeros(len(labels), len(target.names))
    for row, classes in enumerate(labels):
        several[row, list(classes)] = 1.0
    return several


def _losses(target: Target, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Each example's loss, shape (B,): cross-entropy in nats, its mean over several labels, or squared error.

    The squared error is divided by train's variance: predicting the mean costs about 1.
    """
    if target.kind == "number":
        return ((logits[:, 0] - labels) / target.std).square()
    if target.kind != "classes":
        return nn.functional.cross_entropy(logits, labels, reduction="none")
    return nn.functional.binary_cross_entropy_with_logits(logits, labels, reduction="none").mean(dim=1)


def _guesses(target: Target, logits: torch.Tensor) -> torch.Tensor:
    """The predicted classes (B,), labels (B, C) of 0 and 1, or numbers (B,)."""
    if target.kind == "number":
        return logits[:, 0]
    return (logits > 0).float() if target.kind == "classes" else logits.argmax(dim=-1)

"""The record of tasks with one label, several labels or a number per example, and their loss and metric."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from autopeft import data
from autopeft.plugins import Batch, Encoded, Evaluation, Example, LabelSpace, Metric, TaskDefaults, discover
from autopeft.tasks._shared.batches import Rows, logits_of
from autopeft.tasks._shared.usual import LABELLED, require_kind, require_metric
from autopeft.types import DataSpec, TaskSpec

# Classes are uneven if the most frequent is this many times as frequent as the rarest. Heuristic:
# poem_sentiment has 11 (always guessing the majority gives 66 % accuracy, TF-IDF 69 % with a macro-F1 of
# 0.37), banking77 has 5.
_UNEVEN = 10


@dataclass(frozen=True, kw_only=True)
class LabelledTask:
    """A task learned from the logits (B, C) of a model's head."""

    name: str
    reader: str  # names the function of `autopeft.data` that reads rows
    auto_class: str
    encode: Callable[[Rows, Sequence[Any], Any, int], Encoded]
    collate_inputs: Callable[[Sequence[Example], int], Batch]  # of examples and the padding token's id
    peft_task_type: str | None = None
    label_space: LabelSpace = field(default_factory=LabelSpace)
    chosen_metric: str | None = None
    notes: tuple[str, ...] = ()
    defaults: TaskDefaults = LABELLED
    kinds: tuple[str, ...] = ("class", "classes", "number")

    def read_rows(self, spec: DataSpec) -> data.UncutRows:
        """Read rows by the reader, whose libraries are imported only now."""
        return cast(data.UncutRows, getattr(data, self.reader)(spec))

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the metrics that judge the kind of labels, its default first."""
        kind = self.label_space.kind
        metrics = [metric for metric in discover("autopeft.metrics").values() if kind in metric.kinds]
        return tuple(m.name for m in sorted(metrics, key=lambda metric: kind not in metric.default_for))

    @property
    def metric(self) -> Metric:
        """The metric that the user or `fitted` has chosen, else the default of the kind of labels."""
        return cast(Metric, discover("autopeft.metrics")[self.chosen_metric or self.metrics[0]])

    def fitted(self, spec: TaskSpec, label_space: LabelSpace, tokenizer: Any = None) -> LabelledTask:
        """Adapt the task to a dataset; the default metric depends on the labels and how even they are."""
        require_kind(self.name, label_space, self.kinds)
        task = replace(self, label_space=label_space, chosen_metric=spec.metric, notes=())
        if spec.metric is not None:
            require_metric(f"{self.name} ({label_space.kind})", spec.metric, task.metrics)
            return task
        counts = label_space.counts
        if label_space.kind != "class" or not counts or max(counts) < _UNEVEN * max(1, min(counts)):
            return task
        metrics = discover("autopeft.metrics").values()
        for_uneven = next(metric.name for metric in metrics if "uneven" in metric.default_for)
        extremes = [f"{label_space.names[counts.index(n)]} {n}" for n in (max(counts), min(counts))]
        note = (
            f"The labels are uneven ({', '.join(extremes)} in train), so the metric is {for_uneven}; set "
            f"--metric {task.metric.name} to have {task.metric.name}."
        )
        return replace(task, chosen_metric=for_uneven, notes=(note,))

    def collate(self, examples: Sequence[Example], labels: Sequence[Any], pad_token_id: int) -> Batch:
        """Make a batch: features, and `labels` (B,), or (B, C) of 0 and 1 for several labels per example."""
        if self.label_space.kind == "classes":
            truth = torch.zeros(len(labels), len(self.label_space.names))
            for row, classes in enumerate(labels):
                truth[row, list(classes)] = 1.0
        else:
            truth = torch.tensor(
                labels, dtype=torch.float32 if self.label_space.kind == "number" else torch.long
            )
        return {**self.collate_inputs(examples, pad_token_id), "labels": truth}

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Compute the mean loss of the examples, shape ()."""
        return _losses(self.label_space, logits_of(model, batch), batch["labels"]).mean()

    def n_terms(self, batch: Batch) -> int:
        """Count the rows of the batch."""
        return len(batch["labels"])

    def evaluate(self, model: nn.Module, batches: Iterator[Batch], *, generates: bool = True) -> Evaluation:
        """Compute the metric, the mean loss and a score per example, without gradients; NaN if diverged."""
        with torch.inference_mode():
            pairs = [(logits_of(model, batch), batch["labels"]) for batch in batches]
            logits, truth = (torch.cat(column) for column in zip(*pairs, strict=True))
            loss = float(_losses(self.label_space, logits, truth).cpu().double().mean())
            if self.label_space.kind == "number":
                guesses = logits[:, 0]
            else:
                guesses = (
                    (logits > 0).float() if self.label_space.kind == "classes" else logits.argmax(dim=-1)
                )
        if not guesses.isfinite().all():  # the run diverged, and the loss is not finite either
            return Evaluation(metric=math.nan, loss=loss, example_scores=(math.nan,) * len(guesses))
        value, scores = self.metric.score(truth.cpu().double().numpy(), guesses.cpu().double().numpy())
        return Evaluation(metric=value, loss=loss, example_scores=scores)


def _losses(label_space: LabelSpace, logits: Tensor, labels: Tensor) -> Tensor:
    """Compute each example's loss, shape (B,): cross-entropy in nats, or squared error for numbers.

    For several labels it is the mean over labels of the binary one. The squared error is divided by train's
    variance: predicting the mean costs about 1.
    """
    if label_space.kind == "number":
        return ((logits[:, 0] - labels) / label_space.std).square()
    if label_space.kind != "classes":
        return nn.functional.cross_entropy(logits, labels, reduction="none")
    return nn.functional.binary_cross_entropy_with_logits(logits, labels, reduction="none").mean(dim=1)

"""What tasks with labels share: which metric, labels as a tensor, the loss, the evaluation of logits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from autopeft.data import ReadRows
from autopeft.errors import DataError, UnknownNameError
from autopeft.extension import Batch, Evaluation, Metric, Target, discover
from autopeft.records import TaskSpec
from autopeft.tasks._padding import features

if TYPE_CHECKING:
    from typing_extensions import Self

_USUAL = {"class": "accuracy", "classes": "micro-f1", "number": "pearson"}
# The most frequent label this many times as often as the rarest; chosen by hand: of the sets tried it sets
# poem_sentiment apart (11; majority 66 % accuracy, TF-IDF 69 % with a macro-F1 of 0.37) from banking77 (5).
_UNEVEN = 10


@dataclass(frozen=True)
class LabelledTask:
    """One class, several or a number per example, from the logits (B, C) of a model's head."""

    name: str
    read_rows: ReadRows
    auto_class: str
    peft_task_type: str | None = None
    metric: str = "accuracy"
    target: Target = field(default_factory=Target)
    notes: tuple[str, ...] = ()

    @property
    def metrics(self) -> tuple[str, ...]:
        """Those of the target's kind, the usual one first."""
        return metrics_of(self.target.kind)

    @property
    def greater_is_better(self) -> bool:
        """As the metric has it."""
        return _metric(self.metric).greater_is_better

    @property
    def score_span(self) -> float | None:
        """As the metric has it."""
        return _metric(self.metric).score_span

    def fitted(self, spec: TaskSpec, target: Target, tokenizer: Any = None) -> Self:
        """The task for a dataset: its metric is the user's, else by the target's kind and evenness."""
        metric, notes = _chosen_metric(self.name, spec, target)
        return replace(self, target=target, metric=metric, notes=notes)

    def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """Mean loss, shape (), as `losses` has it."""
        return losses(self.target, logits_of(model, batch), batch["labels"]).mean()

    def drawn_labels(self, logits: torch.Tensor, generator: torch.Generator) -> torch.Tensor | None:
        """Several labels (B, C) of 0 and 1, each by its own chance; numbers (B,) about the prediction.

        The squared error is twice the -log p of a normal distribution with train's variance, the mean over C
        labels a C-th of that of C coins, up to a constant. None where there is one class per row.

        Source: Kunstner et al. 2019, arXiv:1905.12558, equation 1, on losses as -log p; the variance is ours.
        """
        if self.target.kind == "classes":
            return torch.bernoulli(logits.sigmoid(), generator=generator)
        if self.target.kind == "number":
            return logits[:, 0] + self.target.std * torch.randn(len(logits), generator=generator)
        return None

    def evaluate(self, model: nn.Module, batches: Iterator[Batch]) -> Evaluation:
        """The metric, the mean loss, and one score per example."""
        return evaluated(self.target, self.metric, model, batches)


def _metric(name: str) -> Metric:
    found: Metric = discover("autopeft.metrics")[name]
    return found


def metrics_of(kind: str) -> tuple[str, ...]:
    """Names of the metrics of a kind of target, the usual one first."""
    known = discover("autopeft.metrics")
    names = [name for name, metric in known.items() if kind in metric.kinds]
    return tuple(sorted(names, key=lambda name: (name != _USUAL.get(kind), name)))


def _chosen_metric(name: str, spec: TaskSpec, target: Target) -> tuple[str, tuple[str, ...]]:
    """The user's metric, else one by the target's kind and evenness; and what the user should know of it.

    Raises:
        UnknownNameError: The kind has no such metric.
        DataError: The target is none of labels.
    """
    if target.kind not in _USUAL:
        raise DataError(f"{name} learns labels, not {target.kind}; choose another --task.")
    known = metrics_of(target.kind)
    if spec.metric is None:
        note = _uneven(target) if target.kind == "class" else None
        return ("macro-f1", (note,)) if note else (known[0], ())
    if spec.metric not in known:
        raise UnknownNameError(f"metric of {name} ({target.kind})", spec.metric, known)
    return spec.metric, ()


def _uneven(target: Target) -> str | None:
    """A warning, where the classes are so uneven that accuracy says little."""
    if not target.counts or max(target.counts) < _UNEVEN * max(1, min(target.counts)):
        return None
    most, least = max(target.counts), min(target.counts)
    names = [target.names[target.counts.index(count)] for count in (most, least)]
    return (
        f"The labels are uneven ({names[0]} {most}, {names[1]} {least} in train), so that the metric is "
        "macro-f1; --metric accuracy asks for accuracy."
    )


def logits_of(model: nn.Module, batch: Batch) -> torch.Tensor:
    """Scores (B, C) in fp32, whatever the model computes in."""
    logits: torch.Tensor = model(**features(batch)).logits
    return logits.float()


def label_tensor(target: Target, labels: Sequence[Any]) -> torch.Tensor:
    """Classes (B,), int64; numbers (B,); several classes (B, C) of 0 and 1."""
    if target.kind == "class":
        return torch.tensor(labels, dtype=torch.long)
    if target.kind == "number":
        return torch.tensor(labels, dtype=torch.float32)
    several = torch.zeros(len(labels), len(target.names))
    for row, own in enumerate(labels):
        several[row, list(own)] = 1.0
    return several


def losses(target: Target, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Shape (B,): cross-entropy in nats (over several classes their mean), or the squared error.

    That in units of train's variance, so that its mean as a guess has about 1 whatever the numbers measure.
    """
    if target.kind == "class":
        return nn.functional.cross_entropy(logits, labels, reduction="none")
    if target.kind == "number":
        return ((logits[:, 0] - labels) / target.std).square()
    own = nn.functional.binary_cross_entropy_with_logits(logits, labels, reduction="none")
    return own.mean(dim=1)


def evaluated(target: Target, metric: str, model: nn.Module, batches: Iterator[Batch]) -> Evaluation:
    """Metric, mean loss and scores of what a model says of some batches, without gradients."""
    lost: list[torch.Tensor] = []
    logits: list[torch.Tensor] = []
    truth: list[torch.Tensor] = []
    with torch.inference_mode():
        for batch in batches:
            logits.append(logits_of(model, batch))
            truth.append(batch["labels"])
            lost.append(losses(target, logits[-1], truth[-1]))
    guesses = _guesses(target, torch.cat(logits)).cpu().numpy().astype(float)
    loss = float(torch.cat(lost).double().mean())
    if not np.isfinite(guesses).all():  # diverged; the loss says so too
        return Evaluation(metric=float("nan"), loss=loss, example_scores=(float("nan"),) * len(guesses))
    value, scores = _metric(metric).scored(torch.cat(truth).cpu().numpy().astype(float), guesses)
    return Evaluation(metric=value, loss=loss, example_scores=scores)


def _guesses(target: Target, logits: torch.Tensor) -> torch.Tensor:
    if target.kind == "class":
        return logits.argmax(dim=-1)
    return logits[:, 0] if target.kind == "number" else (logits > 0).float()

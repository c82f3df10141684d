"""What tasks with labels share: which metric, labels as a tensor, the loss, the evaluation of logits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from autopeft.errors import DataError, UnknownNameError
from autopeft.extension import Batch, Evaluation, Target
from autopeft.records import TaskSpec
from autopeft.tasks._metrics import CLASS_METRICS, CLASSES_METRICS, ERRORS, NUMBER_METRICS

METRICS: Mapping[str, Mapping[str, Any]] = {
    "class": CLASS_METRICS,
    "classes": CLASSES_METRICS,
    "number": NUMBER_METRICS,
}
_HITS = ("accuracy", "exact-match")  # whose scores are 0 or 1
# The most frequent label this many times as often as the rarest; chosen by hand: of the sets tried it sets
# poem_sentiment apart (11; majority 66 % accuracy, TF-IDF 69 % with a macro-F1 of 0.37) from banking77 (5).
_UNEVEN = 10


def chosen_metric(name: str, spec: TaskSpec, target: Target) -> tuple[str, tuple[str, ...]]:
    """The user's metric, else one by the target's kind and evenness; and what the user should know of it.

    Raises:
        UnknownNameError: The kind has no such metric.
        DataError: The target is none of labels.
    """
    if target.kind not in METRICS:
        raise DataError(f"{name} learns labels, not {target.kind}; choose another --task.")
    known = METRICS[target.kind]
    if spec.metric is None:
        note = _uneven(target) if target.kind == "class" else None
        return ("macro-f1", (note,)) if note else (next(iter(known)), ())
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
        "macro-f1; task.metric=accuracy asks for accuracy."
    )


def is_greater_better(metric: str) -> bool:
    """So it is, but for errors."""
    return metric not in ERRORS


def span_of(metric: str) -> float | None:
    """Hits lie in [0, 1]; errors and pseudo-values have no bounds."""
    return 1.0 if metric in _HITS else None


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
    """Shape (B,): cross-entropy in nats (over several classes their mean), or the squared error."""
    if target.kind == "class":
        return nn.functional.cross_entropy(logits, labels, reduction="none")
    if target.kind == "number":
        return (logits[:, 0] - labels).square()
    own = nn.functional.binary_cross_entropy_with_logits(logits, labels, reduction="none")
    return own.mean(dim=1)


def drawn(target: Target, logits: torch.Tensor, generator: torch.Generator) -> torch.Tensor | None:
    """Several labels (B, C) of 0 and 1, each by itself with its chance; numbers (B,) about the prediction.

    The squared error is twice the -log p of a normal distribution with variance 1, the mean over C labels
    a C-th of that of C coins, up to a constant. None where there is one class per row.

    Source: Kunstner et al. 2019, arXiv:1905.12558, equation 1, on losses as -log p; the variance is ours.
    """
    if target.kind == "classes":
        return torch.bernoulli(logits.sigmoid(), generator=generator)
    if target.kind == "number":
        return logits[:, 0] + torch.randn(len(logits), generator=generator)
    return None


def evaluated(
    target: Target, metric: str, batches: Iterator[Batch], logits_of: Callable[[Batch], torch.Tensor]
) -> Evaluation:
    """Metric, mean loss and scores of what a model says of some batches, without gradients."""
    lost: list[torch.Tensor] = []
    logits: list[torch.Tensor] = []
    truth: list[torch.Tensor] = []
    with torch.inference_mode():
        for batch in batches:
            logits.append(logits_of(batch))
            truth.append(batch["labels"])
            lost.append(losses(target, logits[-1], truth[-1]))
    guesses = _guesses(target, torch.cat(logits)).cpu().numpy().astype(float)
    loss = float(torch.cat(lost).double().mean())
    if not np.isfinite(guesses).all():  # diverged; the loss says so too
        return Evaluation(metric=float("nan"), loss=loss, example_scores=(float("nan"),) * len(guesses))
    value, scores = METRICS[target.kind][metric](torch.cat(truth).cpu().numpy().astype(float), guesses)
    return Evaluation(metric=value, loss=loss, example_scores=scores)


def _guesses(target: Target, logits: torch.Tensor) -> torch.Tensor:
    if target.kind == "class":
        return logits.argmax(dim=-1)
    return logits[:, 0] if target.kind == "number" else (logits > 0).float()

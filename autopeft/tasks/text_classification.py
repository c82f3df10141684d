"""Text classification: one label, several labels or a number for one text or a pair of texts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from autopeft.errors import DataError, UnknownNameError
from autopeft.extension import Batch, Encoded, Evaluation, Example, Target
from autopeft.records import TaskSpec
from autopeft.tasks._metrics import CLASS_METRICS, CLASSES_METRICS, ERRORS, NUMBER_METRICS
from autopeft.tasks._padding import features, padded_features
from autopeft.tasks._uneven import uneven

_METRICS: Mapping[str, Mapping[str, Any]] = {
    "class": CLASS_METRICS,
    "classes": CLASSES_METRICS,
    "number": NUMBER_METRICS,
}
_MEANS = ("accuracy", "exact-match")  # of scores that are 0 or 1


@dataclass(frozen=True)
class TextClassification:
    """Classification with cross-entropy, one class or several; a number with the squared error."""

    name: str = "text-classification"
    form: str = "labelled-text"
    metric: str = "accuracy"
    peft_task_type: str | None = "SEQ_CLS"
    auto_class: str = "AutoModelForSequenceClassification"
    target: Target = field(default_factory=Target)
    notes: tuple[str, ...] = ()

    @property
    def metrics(self) -> tuple[str, ...]:
        """Those of the target's kind."""
        return tuple(_METRICS[self.target.kind])

    @property
    def greater_is_better(self) -> bool:
        """So it is, but for errors."""
        return self.metric not in ERRORS

    @property
    def score_span(self) -> float | None:
        """Hits lie in [0, 1]; errors and pseudo-values have no bounds."""
        return 1.0 if self.metric in _MEANS else None

    def fitted(self, spec: TaskSpec, target: Target, tokenizer: Any = None) -> TextClassification:
        """The task for a dataset: its metric is the user's, else by the target's kind and evenness."""
        if target.kind not in _METRICS:
            raise DataError(f"{self.name} learns labels, not {target.kind}; choose another --task.")
        known = _METRICS[target.kind]
        notes: tuple[str, ...] = ()
        metric = spec.metric or next(iter(known))
        if spec.metric is None and target.kind == "class" and (note := uneven(target)):
            metric, notes = "macro-f1", (note,)
        if metric not in known:
            raise UnknownNameError(f"metric of {self.name} ({target.kind})", metric, known)
        return replace(self, target=target, metric=metric, notes=notes)

    def encode(
        self, inputs: Sequence[Sequence[Any]], labels: Sequence[Any], tokenizer: Any, max_length: int
    ) -> Encoded:
        """Features per example, truncated to `max_length` tokens; a pair is cut at its longer text."""
        columns = [list(column) for column in zip(*inputs, strict=True)]
        whole = tokenizer(*columns, verbose=False)["input_ids"]
        encoded = tokenizer(*columns, truncation=True, max_length=max_length)
        examples = [{name: encoded[name][row] for name in encoded} for row in range(len(inputs))]
        n_cut = sum(len(ids) > max_length for ids in whole)
        longest = max(map(len, whole), default=0)
        note = f"{n_cut} of {len(inputs)} texts were cut to {max_length} tokens; the longest has {longest}."
        return Encoded(examples=tuple(examples), labels=tuple(labels), notes=(note,) if n_cut else ())

    def collate(self, examples: Sequence[Example], labels: Sequence[Any], pad_token_id: int) -> Batch:
        """One batch padded on the right to its longest example: features (B, T), `labels` (B,) or (B, C)."""
        batch = padded_features(examples, pad_token_id)
        if self.target.kind == "class":
            batch["labels"] = torch.tensor(labels, dtype=torch.long)
        elif self.target.kind == "number":
            batch["labels"] = torch.tensor(labels, dtype=torch.float32)
        else:
            batch["labels"] = torch.zeros(len(labels), len(self.target.names))
            for row, own in enumerate(labels):
                batch["labels"][row, list(own)] = 1.0
        return batch

    def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """Mean loss, shape (): cross-entropy in nats (over several classes their mean), or squared error."""
        return self._losses(_logits(model, batch), batch["labels"]).mean()

    def evaluate(self, model: nn.Module, batches: Iterator[Batch]) -> Evaluation:
        """The metric, the mean loss, and one score per example."""
        losses: list[torch.Tensor] = []
        logits: list[torch.Tensor] = []
        truth: list[torch.Tensor] = []
        with torch.inference_mode():
            for batch in batches:
                logits.append(_logits(model, batch))
                truth.append(batch["labels"])
                losses.append(self._losses(logits[-1], truth[-1]))
        guesses = self._guesses(torch.cat(logits)).cpu().numpy()
        metric, scores = self._scored(torch.cat(truth).cpu().numpy(), guesses)
        loss = float(torch.cat(losses).double().mean())
        return Evaluation(metric=metric, loss=loss, example_scores=scores)

    def _scored(self, truth: Any, guesses: Any) -> tuple[float, tuple[float, ...]]:
        if not np.isfinite(guesses).all():  # diverged; the loss says so too
            return float("nan"), (float("nan"),) * len(guesses)
        scored = _METRICS[self.target.kind][self.metric](truth.astype(float), guesses.astype(float))
        return scored[0], scored[1]

    def _losses(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Shape (B,)."""
        if self.target.kind == "class":
            return nn.functional.cross_entropy(logits, labels, reduction="none")
        if self.target.kind == "number":
            return (logits[:, 0] - labels).square()
        own = nn.functional.binary_cross_entropy_with_logits(logits, labels, reduction="none")
        return own.mean(dim=1)

    def _guesses(self, logits: torch.Tensor) -> torch.Tensor:
        if self.target.kind == "class":
            return logits.argmax(dim=-1)
        return logits[:, 0] if self.target.kind == "number" else (logits > 0).float()


def _logits(model: nn.Module, batch: Batch) -> torch.Tensor:
    """Scores (B, C) in fp32, whatever the model computes in."""
    logits: torch.Tensor = model(**features(batch)).logits
    return logits.float()


PART = TextClassification()

"""Text classification: one label, several labels or a number for one text or a pair of texts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from autopeft.extension import Batch, Encoded, Evaluation, Example, Target
from autopeft.records import TaskSpec
from autopeft.tasks._labelled import (
    METRICS,
    chosen_metric,
    drawn,
    evaluated,
    is_greater_better,
    label_tensor,
    losses,
    span_of,
)
from autopeft.tasks._padding import features, padded_features


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
        return tuple(METRICS[self.target.kind])

    @property
    def greater_is_better(self) -> bool:
        """As the metric has it."""
        return is_greater_better(self.metric)

    @property
    def score_span(self) -> float | None:
        """As the metric has it."""
        return span_of(self.metric)

    def fitted(self, spec: TaskSpec, target: Target, tokenizer: Any = None) -> TextClassification:
        """The task for a dataset: its metric is the user's, else by the target's kind and evenness."""
        metric, notes = chosen_metric(self.name, spec, target)
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
        return {**padded_features(examples, pad_token_id), "labels": label_tensor(self.target, labels)}

    def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """Mean loss, shape (): cross-entropy in nats (over several classes their mean), or squared error."""
        return losses(self.target, _logits(model, batch), batch["labels"]).mean()

    def drawn_labels(self, logits: torch.Tensor, generator: torch.Generator) -> torch.Tensor | None:
        """Labels from the model's predictions (B, C), for `fisher_sampled`; None where they are classes."""
        return drawn(self.target, logits, generator)

    def evaluate(self, model: nn.Module, batches: Iterator[Batch]) -> Evaluation:
        """The metric, the mean loss, and one score per example."""
        return evaluated(self.target, self.metric, batches, lambda batch: _logits(model, batch))


def _logits(model: nn.Module, batch: Batch) -> torch.Tensor:
    """Scores (B, C) in fp32, whatever the model computes in."""
    logits: torch.Tensor = model(**features(batch)).logits
    return logits.float()


PART = TextClassification()

"""Multiple choice: which of several answers to a question is right."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from autopeft.data import ReadRows, read_choices
from autopeft.errors import DataError, UnknownNameError
from autopeft.extension import Batch, Encoded, Evaluation, Example, Target
from autopeft.records import TaskSpec
from autopeft.tasks._labelled import evaluated, logits_of
from autopeft.tasks._padding import padded_features


@dataclass(frozen=True)
class MultipleChoice:
    """Every choice is scored beside its question by one head; cross-entropy over the choices of a row."""

    name: str = "multiple-choice"
    read_rows: ReadRows = read_choices
    metric: str = "accuracy"
    metrics: tuple[str, ...] = ("accuracy",)
    greater_is_better: bool = True
    score_span: float | None = 1.0
    peft_task_type: str | None = None  # `peft` has no word for it
    auto_class: str = "AutoModelForMultipleChoice"
    target: Target = field(default_factory=lambda: Target(kind="choice"))
    notes: tuple[str, ...] = ()

    def fitted(self, spec: TaskSpec, target: Target, tokenizer: Any = None) -> MultipleChoice:
        """The task for a dataset of questions."""
        if target.kind != "choice":
            raise DataError(f"{self.name} learns choices, not {target.kind}; choose another --task.")
        if spec.metric not in (None, *self.metrics):
            raise UnknownNameError(f"metric of {self.name}", str(spec.metric), self.metrics)
        return replace(self, target=target)

    def encode(
        self, inputs: Sequence[Sequence[Any]], labels: Sequence[Any], tokenizer: Any, max_length: int
    ) -> Encoded:
        """The question with each choice, as rows of each feature; a long pair is cut at its longer text."""
        n_choices = len(inputs[0]) - 1
        questions = [row[0] for row in inputs for _ in range(n_choices)]
        choices = [choice for row in inputs for choice in row[1:]]
        options = {"truncation": "longest_first", "max_length": max_length}
        encoded = tokenizer(questions, choices, **options)
        whole = tokenizer(questions, choices, verbose=False)["input_ids"]
        n_cut = sum(len(ids) > max_length for ids in whole)
        note = f"{n_cut} of {len(whole)} questions with a choice were cut to {max_length} tokens."
        starts = range(0, len(questions), n_choices)
        rows = [{name: encoded[name][i : i + n_choices] for name in encoded} for i in starts]
        return Encoded(examples=tuple(rows), labels=tuple(labels), notes=(note,) if n_cut else ())

    def collate(self, examples: Sequence[Example], labels: Sequence[Any], pad_token_id: int) -> Batch:
        """One batch padded on the right: features (B, C, T), `labels` (B,)."""
        n_choices = len(examples[0]["input_ids"])
        flat = [{name: row[name][i] for name in row} for row in examples for i in range(n_choices)]
        batch = padded_features(flat, pad_token_id)
        shaped = {name: rows.reshape(len(examples), n_choices, -1) for name, rows in batch.items()}
        return {**shaped, "labels": torch.tensor(labels, dtype=torch.long)}

    def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """Mean cross-entropy over the choices in nats, shape ()."""
        return nn.functional.cross_entropy(logits_of(model, batch), batch["labels"])

    def evaluate(self, model: nn.Module, batches: Iterator[Batch]) -> Evaluation:
        """Accuracy, the mean loss, and 1.0 or 0.0 per example."""
        as_classes = Target(kind="class", names=self.target.names)
        return evaluated(as_classes, self.metric, model, batches)


PART = MultipleChoice()

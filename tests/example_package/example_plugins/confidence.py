"""A task: text classification, evaluated by the mean probability of the right class."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from autopeft.data import ReadRows, read_texts
from autopeft.errors import DataError, UnknownNameError
from autopeft.plugins import Batch, Encoded, Evaluation, Example, LabelSpace, Task, TaskDefaults
from autopeft.tasks.text_classification import PLUGIN as TEXT_CLASSIFICATION
from autopeft.types import MetricFacts, TaskSpec

CONFIDENCE = MetricFacts(name="confidence", is_share=True, score_span=1.0)


@dataclass(frozen=True)
class ConfidentClassification:
    """Rows, batches and loss of text classification; another metric."""

    name: str = "confident-classification"
    read_rows: ReadRows = read_texts
    metric: MetricFacts = CONFIDENCE
    metrics: tuple[str, ...] = ("confidence",)
    peft_task_type: str | None = "SEQ_CLS"
    auto_class: str = "AutoModelForSequenceClassification"
    notes: tuple[str, ...] = ()
    defaults: TaskDefaults = TEXT_CLASSIFICATION.defaults
    texts: Task = TEXT_CLASSIFICATION

    def fitted(
        self, spec: TaskSpec, label_space: LabelSpace, tokenizer: Any = None
    ) -> ConfidentClassification:
        if label_space.kind != "class":
            raise DataError(
                f"{self.name} learns one class per row, not {label_space.kind}; choose another --task."
            )
        if spec.metric not in (None, *self.metrics):
            raise UnknownNameError(f"metric of {self.name}", str(spec.metric), self.metrics)
        return replace(self, texts=self.texts.fitted(spec.model_copy(update={"metric": None}), label_space))

    def encode(
        self, inputs: Sequence[Sequence[Any]], labels: Sequence[Any], tokenizer: Any, max_length: int
    ) -> Encoded:
        return self.texts.encode(inputs, labels, tokenizer, max_length)

    def collate(self, examples: Sequence[Example], labels: Sequence[Any], pad_token_id: int) -> Batch:
        return self.texts.collate(examples, labels, pad_token_id)

    def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        return self.texts.loss(model, batch)

    def n_terms(self, batch: Batch) -> int:
        return self.texts.n_terms(batch)

    def evaluate(self, model: nn.Module, batches: Iterator[Batch], *, generates: bool = True) -> Evaluation:
        scores: list[float] = []
        losses: list[float] = []
        with torch.inference_mode():
            for batch in batches:
                features = {name: tensor for name, tensor in batch.items() if name != "labels"}
                logs = model(**features).logits.double().log_softmax(dim=-1)
                right = logs.gather(1, batch["labels"][:, None])[:, 0]
                scores += right.exp().tolist()
                losses += (-right).tolist()
        return Evaluation(
            metric=sum(scores) / len(scores), loss=sum(losses) / len(losses), example_scores=tuple(scores)
        )


PLUGIN = ConfidentClassification()

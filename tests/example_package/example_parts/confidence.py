"""A task: text classification, judged by the mean probability that the right class gets."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from autopeft.errors import DataError, UnknownNameError
from autopeft.extension import Batch, Evaluation, Target
from autopeft.records import TaskSpec
from autopeft.tasks.text_classification import TextClassification

_METRIC = "confidence"


@dataclass(frozen=True)
class ConfidentClassification(TextClassification):
    """Rows, batches and loss of text classification; another metric."""

    name: str = "confident-classification"
    metric: str = _METRIC

    @property
    def metrics(self) -> tuple[str, ...]:
        return (_METRIC,)

    @property
    def greater_is_better(self) -> bool:
        return True

    @property
    def score_span(self) -> float | None:
        return 1.0

    def fitted(self, spec: TaskSpec, target: Target, tokenizer: Any = None) -> ConfidentClassification:
        if target.kind != "class":
            raise DataError(
                f"{self.name} learns one class per row, not {target.kind}; choose another --task."
            )
        if spec.metric not in (None, _METRIC):
            raise UnknownNameError(f"metric of {self.name}", str(spec.metric), self.metrics)
        return replace(self, target=target)

    def evaluate(self, model: nn.Module, batches: Iterator[Batch]) -> Evaluation:
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


PART = ConfidentClassification()

"""Text classification: one label for one text or a pair of texts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from autopeft.extension import Batch, Evaluation, Example


@dataclass(frozen=True)
class TextClassification:
    """Single-label classification with cross-entropy; the metric is accuracy."""

    name: str = "text-classification"
    metric: str = "accuracy"
    greater_is_better: bool = True
    peft_task_type: str = "SEQ_CLS"
    auto_class: str = "AutoModelForSequenceClassification"

    def encode(self, texts: Sequence[Sequence[str]], tokenizer: Any, max_length: int) -> list[Example]:
        """Features per example, truncated to `max_length` tokens; a pair is cut at its longer text."""
        columns = [list(column) for column in zip(*texts, strict=True)]
        encoded = tokenizer(*columns, truncation=True, max_length=max_length)
        return [{name: encoded[name][row] for name in encoded} for row in range(len(texts))]

    def collate(self, examples: Sequence[Example], labels: Sequence[int], pad_token_id: int) -> Batch:
        """One batch padded on the right to its longest example: features (B, T), `labels` (B,)."""
        longest = max(len(example["input_ids"]) for example in examples)
        batch: Batch = {}
        for name in examples[0]:
            filler = pad_token_id if name == "input_ids" else 0
            rows = [row[name] + [filler] * (longest - len(row[name])) for row in examples]
            batch[name] = torch.tensor(rows, dtype=torch.long)
        batch["labels"] = torch.tensor(labels, dtype=torch.long)
        return batch

    def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """Mean cross-entropy in nats, shape ()."""
        return nn.functional.cross_entropy(_logits(model, batch), batch["labels"])

    def evaluate(self, model: nn.Module, batches: Iterator[Batch]) -> Evaluation:
        """Accuracy in [0, 1], mean cross-entropy in nats, and 1.0 or 0.0 per example."""
        losses: list[float] = []
        hits: list[float] = []
        with torch.inference_mode():
            for batch in batches:
                logits = _logits(model, batch)
                losses += nn.functional.cross_entropy(logits, batch["labels"], reduction="none").tolist()
                hits += (logits.argmax(dim=-1) == batch["labels"]).float().tolist()
        return Evaluation(
            metric=sum(hits) / len(hits), loss=sum(losses) / len(losses), example_scores=tuple(hits)
        )


def _logits(model: nn.Module, batch: Batch) -> torch.Tensor:
    """Class scores (B, C) in fp32, whatever the model computes in."""
    features = {name: value for name, value in batch.items() if name != "labels"}
    logits: torch.Tensor = model(**features).logits
    return logits.float()


PART = TextClassification()

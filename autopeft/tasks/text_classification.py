"""Text classification: one label, several labels or a number for one text or a pair of texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from autopeft.data import ReadRows, read_texts
from autopeft.extension import Batch, Encoded, Example
from autopeft.tasks._labelled import LabelledTask, label_tensor
from autopeft.tasks._padding import padded_features


@dataclass(frozen=True)
class TextClassification(LabelledTask):
    """Classification with cross-entropy, one class or several; a number with the squared error."""

    name: str = "text-classification"
    read_rows: ReadRows = read_texts
    auto_class: str = "AutoModelForSequenceClassification"
    peft_task_type: str | None = "SEQ_CLS"

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


PART = TextClassification()

"""Text classification: one label, several labels or a number for one text or a pair of texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from autopeft.plugins import Encoded
from autopeft.tasks._shared.batches import Rows, pad_features
from autopeft.tasks._shared.labelled import LabelledTask
from autopeft.tasks._shared.tokens import tokenized


def _encode(inputs: Rows, labels: Sequence[Any], tokenizer: Any, max_length: int) -> Encoded:
    """Tokenize each text or pair to at most `max_length` tokens; a pair is cut at its longer text."""
    columns = list(zip(*inputs, strict=True))
    examples, cut = tokenized(tokenizer, columns, max_length=max_length)
    longest = max(cut, default=0)
    note = f"{len(cut)} of {len(inputs)} texts were cut to {max_length} tokens; the longest has {longest}."
    notes = (note,) if cut else ()
    return Encoded(examples=tuple(examples), labels=tuple(labels), notes=notes)


PLUGIN = LabelledTask(
    name="text-classification",
    reader="read_texts",
    auto_class="AutoModelForSequenceClassification",
    peft_task_type="SEQ_CLS",
    encode=_encode,
    collate_inputs=pad_features,
)

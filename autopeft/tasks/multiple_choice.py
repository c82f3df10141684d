"""Multiple choice: which of several answers to a question is right.

Every choice is scored beside its question by one head; the loss is the cross-entropy over a row's choices.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from autopeft.data import read_choices
from autopeft.extension import Batch, Encoded, Example, Target
from autopeft.tasks.parts.batches import Rows, pad_features, split_rows
from autopeft.tasks.parts.labelled import LabelledTask


def _encode(inputs: Rows, labels: Sequence[Any], tokenizer: Any, max_length: int) -> Encoded:
    """The question with each choice, as rows of each feature; a long pair is cut at its longer text."""
    n_choices = len(inputs[0]) - 1
    questions = [row[0] for row in inputs for _ in range(n_choices)]
    choices = [choice for row in inputs for choice in row[1:]]
    encoded = tokenizer(questions, choices, truncation="longest_first", max_length=max_length)
    uncut = tokenizer(questions, choices, verbose=False)["input_ids"]
    n_cut = sum(len(ids) > max_length for ids in uncut)
    note = f"{n_cut} of {len(uncut)} questions with a choice were cut to {max_length} tokens."
    starts = range(0, len(questions), n_choices)
    by_question = {name: [rows[i : i + n_choices] for i in starts] for name, rows in encoded.items()}
    return Encoded(examples=split_rows(by_question), labels=tuple(labels), notes=(note,) if n_cut else ())


def _collate_inputs(examples: Sequence[Example], pad_token_id: int) -> Batch:
    """Features (B, C, T), padded on the right."""
    n_choices = len(examples[0]["input_ids"])
    flat = [{name: row[name][i] for name in row} for row in examples for i in range(n_choices)]
    batch = pad_features(flat, pad_token_id)
    return {name: rows.reshape(len(examples), n_choices, -1) for name, rows in batch.items()}


PART = LabelledTask(
    name="multiple-choice",
    read_rows=read_choices,
    auto_class="AutoModelForMultipleChoice",
    peft_task_type=None,  # `peft` has no task type for it
    kinds=("choice",),
    target=Target(kind="choice"),
    encode=_encode,
    collate_inputs=_collate_inputs,
)

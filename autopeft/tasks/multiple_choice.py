"""Multiple choice: which of several answers to a question is right.

Every choice is scored with its question by one head; the loss is the cross-entropy over a row's choices.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from autopeft.plugins import Batch, Encoded, Example, LabelSpace
from autopeft.tasks._shared.batches import Rows, pad_features
from autopeft.tasks._shared.labelled import LabelledTask
from autopeft.tasks._shared.tokens import pair_form, tokenized


def _encode(inputs: Rows, labels: Sequence[Any], tokenizer: Any, max_length: int) -> Encoded:
    """Tokenize the question with each choice; a long pair is cut at its longer text."""
    n_choices = len(inputs[0]) - 1
    questions = [row[0] for row in inputs for _ in range(n_choices)]
    choices = [choice for row in inputs for choice in row[1:]]
    pairs, cut = tokenized(tokenizer, [questions, choices], max_length=max_length)
    note = f"{len(cut)} of {len(pairs)} questions with a choice were cut to {max_length} tokens."
    by_question = (pairs[i : i + n_choices] for i in range(0, len(pairs), n_choices))
    examples = tuple({name: [pair[name] for pair in row] for name in row[0]} for row in by_question)
    notes = (note,) if cut else ()
    return Encoded(examples=examples, labels=tuple(labels), notes=notes, text_form=pair_form(tokenizer))


def _collate_inputs(examples: Sequence[Example], pad_token_id: int) -> Batch:
    """Stack features to (B, C, T), C choices a row, padded on the right."""
    n_choices = len(examples[0]["input_ids"])
    flat = [{name: row[name][i] for name in row} for row in examples for i in range(n_choices)]
    batch = pad_features(flat, pad_token_id)
    return {name: rows.reshape(len(examples), n_choices, -1) for name, rows in batch.items()}


PLUGIN = LabelledTask(
    name="multiple-choice",
    reader="read_choices",
    auto_class="AutoModelForMultipleChoice",
    peft_task_type=None,  # `peft` has no task type for it
    kinds=("choice",),
    label_space=LabelSpace(kind="choice"),
    encode=_encode,
    collate_inputs=_collate_inputs,
)

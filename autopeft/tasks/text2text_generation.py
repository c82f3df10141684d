"""Text to text: completions of prompts by a model with encoder and decoder, such as T5 or BART."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import nn

from autopeft.plugins import IGNORED, Batch, Encoded, LabelKind, LabelSpace
from autopeft.tasks._shared.batches import without_labels
from autopeft.tasks._shared.generating import generate_greedily
from autopeft.tasks._shared.tokens import Row, as_row, chunks, tokenized
from autopeft.tasks._shared.writing import TextModel, WritingTask, all_dropped


def _encode(
    kind: LabelKind, texts: Sequence[str], completions: Sequence[str], tokenizer: Any, max_length: int
) -> Encoded:
    """Tokenize prompts and completions; a row whose completion is too long is dropped."""
    examples, cut = tokenized(tokenizer, [texts], max_length=max_length)
    labels: list[Row] = []
    dropped: list[int] = []
    longest = 0
    for chunk in chunks(completions):
        for ids in tokenizer(text_target=list(completions[chunk]), verbose=False)["input_ids"]:
            longest = max(longest, len(ids))
            if len(ids) > max_length:
                dropped.append(len(labels))
                ids = [IGNORED] * max_length
            labels.append(as_row(ids))
    n_rows = len(texts)
    note = (
        f"{len(cut)} of {n_rows} prompts were cut to {max_length} tokens, and {len(dropped)} rows are "
        "dropped, since their completions would lose their end."
    )
    return Encoded(
        examples=tuple(examples),
        labels=tuple(labels),
        notes=(note,) if cut or dropped else (),
        refusal=all_dropped(n_rows, longest, max_length) if len(dropped) == n_rows else "",
        dropped=tuple(dropped),
    )


def _features(model: nn.Module, batch: Batch) -> Batch:
    """Add `decoder_input_ids` to the prompt: the completion shifted by one, as the decoder reads it."""
    prepare = getattr(model, "prepare_decoder_input_ids_from_labels", None)
    labels = batch["labels"]
    if prepare is not None:
        shifted = prepare(labels=labels)
    else:  # M2M100 and Blenderbot have no such method
        config = cast(Any, model).config
        previous = labels[:, :-1].masked_fill(labels[:, :-1] == IGNORED, config.pad_token_id)
        start = labels.new_full((len(labels), 1), config.decoder_start_token_id)
        shifted = torch.cat([start, previous], dim=1)
    return {**without_labels(batch), "decoder_input_ids": shifted}


def _generate(model: nn.Module, batch: Batch, tokenizer: Any, max_new_tokens: int) -> list[str]:
    """Generate a text for each prompt of a batch, greedily."""
    return generate_greedily(
        model,
        tokenizer,
        without_labels(batch),
        max_new_tokens=max_new_tokens,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=cast(Any, model).config.decoder_start_token_id,
    )


PLUGIN = WritingTask(
    name="text2text-generation",
    auto_class="AutoModelForSeq2SeqLM",
    peft_task_type="SEQ_2_SEQ_LM",
    kinds=("completion",),
    label_space=LabelSpace(kind="completion"),
    model_type=TextModel(
        encode=_encode, features=_features, targets=lambda labels: labels, generate=_generate
    ),
)

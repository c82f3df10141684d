"""Answers that a language model generates, compared with those that were given."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import nn
from transformers import GenerationConfig

from autopeft.errors import DataError, SpecError
from autopeft.extension import Batch
from autopeft.tasks._padding import IGNORED


def pattern_of(text: str | None) -> re.Pattern[str] | None:
    """The compiled pattern; raises SpecError where it is none."""
    if text is None:
        return None
    try:
        return re.compile(text)
    except re.error as error:
        raise SpecError(f"task.answer_pattern {text!r} is no regular expression ({error}).") from error


def answer_in(text: str, pattern: re.Pattern[str] | None) -> str | None:
    """The first group of the first match, or the match; the whole text without a pattern; None: no match."""
    if pattern is None:
        return text.strip()
    match = pattern.search(text)
    return None if match is None else (match[1] if pattern.groups else match[0]).strip()


def require_answers(texts: Sequence[str], pattern: re.Pattern[str] | None) -> None:
    """Refuse a pattern that some given completion does not match: there would be nothing to compare with."""
    missing = [text for text in texts if not answer_in(text, pattern)]
    if missing:
        raise DataError(
            f"task.answer_pattern finds no answer in {len(missing)} of {len(texts)} completions, such as "
            f"{missing[0][-60:]!r}; correct the pattern or the rows."
        )


def generated(model: nn.Module, batch: Batch, tokenizer: Any, *, max_new_tokens: int) -> list[str]:
    """Greedy continuations of the prompts of a batch, whose labels are -100 at the prompt."""
    prompts = [
        ids[: int((labels != IGNORED).int().argmax())].tolist()
        for ids, labels in zip(batch["input_ids"], batch["labels"], strict=True)
    ]
    longest = max(map(len, prompts))
    pad = int(tokenizer.pad_token_id or 0)
    ids = torch.tensor([[*[pad] * (longest - len(prompt)), *prompt] for prompt in prompts])
    mask = torch.tensor([[*[0] * (longest - len(prompt)), *[1] * len(prompt)] for prompt in prompts])
    device = batch["input_ids"].device
    own = getattr(model, "generation_config", None)
    n_positions = getattr(cast(Any, model).config.get_text_config(), "max_position_embeddings", None)
    room = n_positions - longest if isinstance(n_positions, int) else max_new_tokens
    ends = {tokenizer.eos_token_id, *_listed(getattr(own, "eos_token_id", None))} - {None}
    config = GenerationConfig(
        max_new_tokens=max(1, min(max_new_tokens, room)),
        do_sample=False,
        pad_token_id=pad,
        eos_token_id=sorted(ends) or None,
    )
    made = cast(Any, model).generate(
        input_ids=ids.to(device), attention_mask=mask.to(device), generation_config=config
    )
    return cast("list[str]", tokenizer.batch_decode(made[:, longest:], skip_special_tokens=True))


def translated(model: nn.Module, features: Batch, tokenizer: Any, *, max_new_tokens: int) -> list[str]:
    """Greedy outputs of an encoder with a decoder."""
    own = cast(Any, model).config
    config = GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=own.decoder_start_token_id,
    )
    made = cast(Any, model).generate(**features, generation_config=config)
    return cast("list[str]", tokenizer.batch_decode(made, skip_special_tokens=True))


def given(batch: Batch, tokenizer: Any) -> list[str]:
    """The completions of a batch as text."""
    rows = [labels[labels != IGNORED].tolist() for labels in batch["labels"]]
    return cast("list[str]", tokenizer.batch_decode(rows, skip_special_tokens=True))


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]

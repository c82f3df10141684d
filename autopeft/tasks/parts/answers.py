"""Texts that a language model generates, and the answers in them that are compared with the true ones."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, cast

from torch import nn
from transformers import GenerationConfig

from autopeft.errors import DataError, SpecError
from autopeft.extension import Batch


def require_pattern(pattern: str | None) -> None:
    """Raise SpecError where `task.answer_pattern` is no regular expression."""
    try:
        re.compile(pattern or "")
    except re.error as error:
        raise SpecError(
            f"task.answer_pattern {pattern!r} is no regular expression ({error}); correct it or leave it out."
        ) from error


def find_answer(text: str, pattern: str | None) -> str | None:
    """The first group of the first match, or the match; the whole text without a pattern; None: no match."""
    if pattern is None:
        return text.strip()
    match = re.search(pattern, text)
    return None if match is None else match[1 if match.re.groups else 0].strip()


def require_answers(completions: Sequence[str], pattern: str | None) -> None:
    """Raise DataError where a true completion has no answer that a generated one could be compared with."""
    missing = [text for text in completions if not find_answer(text, pattern)]
    if missing:
        raise DataError(
            f"task.answer_pattern finds no answer in {len(missing)} of {len(completions)} completions, such "
            f"as {missing[0][-60:]!r}; correct the pattern or the rows."
        )


def generate_greedily(
    model: nn.Module, tokenizer: Any, features: Batch, *, n_skipped: int = 0, **config: Any
) -> list[str]:
    """What `generate` writes with a config, as texts without their first `n_skipped` tokens."""
    greedy = GenerationConfig(do_sample=False, **config)
    ids = cast(Any, model).generate(**features, generation_config=greedy)
    return cast("list[str]", tokenizer.batch_decode(ids[:, n_skipped:], skip_special_tokens=True))

"""Generates texts greedily, whatever the settings of the model's own config are."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, cast

from torch import nn
from transformers import GenerationConfig

from autopeft.plugins import Batch

# What `generate` would take from the model's own config, and what a greedy text of any length does not have.
_UNSET = (
    *("do_sample", "num_beams", "repetition_penalty", "encoder_repetition_penalty"),
    *("no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "min_length", "min_new_tokens", "max_length"),
    *("temperature", "top_p", "top_k", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff"),
    *("early_stopping", "length_penalty"),
)


def generate_greedily(
    model: nn.Module,
    tokenizer: Any,
    features: Batch,
    *,
    max_new_tokens: int,
    n_skipped: int = 0,
    **config: Any,
) -> list[str]:
    """Generate greedy texts, without their first `n_skipped` tokens (a prompt); `config` adds settings."""
    greedy = GenerationConfig(max_new_tokens=max_new_tokens, **config)
    with _without_sampling(model):
        written = cast(Any, model).generate(**features, generation_config=greedy)
    texts: list[str] = tokenizer.batch_decode(written[:, n_skipped:], skip_special_tokens=True)
    return texts


@contextlib.contextmanager
def _without_sampling(model: nn.Module) -> Iterator[None]:
    """Clear sampling, beams and lengths in the model's own config, and restore them at the end."""
    config = getattr(model, "generation_config", None)
    values = {name: getattr(config, name) for name in _UNSET if getattr(config, name, None) is not None}
    for name in values:
        setattr(config, name, None)
    try:
        yield
    finally:
        for name, value in values.items():
            setattr(config, name, value)

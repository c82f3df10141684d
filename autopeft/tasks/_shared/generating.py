"""Generates texts, as many at a time as the memory holds keys and values for."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import nn
from transformers import GenerationConfig

from autopeft.model import free_bytes
from autopeft.plugins import Batch
from autopeft.types import FLOAT32_BYTES

# Set here, since `generate` would use the values of the model's own config: beams, repetition penalties.
_GREEDY: dict[str, Any] = {
    "do_sample": False,
    "num_beams": 1,
    "repetition_penalty": 1.0,
    "encoder_repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0,
}
# Values of the model's own config that have no meaning for greedy texts of any length. They are removed, not
# set to a neutral value: transformers would warn in every call of a length that is given under two names.
_UNSET = (
    *("min_length", "min_new_tokens", "max_length"),
    *("temperature", "top_p", "top_k", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff"),
    *("early_stopping", "length_penalty"),
)
_CACHE_SHARE = 0.5  # of a device's free memory, for keys and values; heuristic


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
    greedy = GenerationConfig(**_GREEDY, max_new_tokens=max_new_tokens, **config)
    ids = features["input_ids"]
    n_rows, n_tokens = ids.shape
    n_at_once = min(n_rows, rows_that_fit(model, n_tokens + max_new_tokens, device=ids.device))
    texts: list[str] = []
    for start in range(0, n_rows, n_at_once):
        some = {name: tensor[start : start + n_at_once] for name, tensor in features.items()}
        with _without_sampling(model):
            written = cast(Any, model).generate(**some, generation_config=greedy)
        texts += tokenizer.batch_decode(written[:, n_skipped:], skip_special_tokens=True)
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


def rows_that_fit(model: nn.Module, n_tokens: int, *, device: torch.device) -> int:
    """Count the rows of `n_tokens` tokens whose keys and values fit into half the free memory, at least 1.

    A batch that fits a forward pass may not fit here, since generation makes rows longer: a model of 8
    billion weights keeps 128 KiB a token, a model of 7 billion without shared heads 512 KiB.
    """
    config = cast(Any, model).config.get_text_config()
    number_bytes = next((parameter.element_size() for parameter in model.parameters()), FLOAT32_BYTES)
    n_heads = getattr(config, "num_attention_heads", None) or 0
    head_size = getattr(config, "head_dim", None) or getattr(config, "hidden_size", 0) // max(1, n_heads)
    n_shared = getattr(config, "num_key_value_heads", None) or n_heads
    n_numbers = 2 * getattr(config, "num_hidden_layers", 0) * n_shared * head_size
    row_bytes = max(1, n_numbers * n_tokens * number_bytes)
    return max(1, int(_CACHE_SHARE * free_bytes(device)) // row_bytes)

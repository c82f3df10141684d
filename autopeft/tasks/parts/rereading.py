"""Texts that a model with a trained prompt or prefix writes, without the keys and values of what it has read.

`generate` of peft 0.21.2 with transformers 5.24 counts positions wrongly where such a model keeps them: GPT-2
asks for positions that it does not have, and Llama writes other texts than its logits say. Without them
it still does so for a prefix.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from autopeft.extension import IGNORED
from autopeft.tasks.parts.batches import pad
from autopeft.tasks.parts.output_layer import run_to_output
from autopeft.tasks.parts.token_losses import over_pieces


def n_virtual_tokens(model: nn.Module) -> int:
    """Positions that a trained prompt or prefix takes before the text."""
    configs: dict[str, Any] = getattr(model, "peft_config", None) or {}
    return sum(config.num_virtual_tokens for config in configs.values() if config.is_prompt_learning)


def continued(
    model: nn.Module,
    prompts: Sequence[list[int]],
    *,
    max_new_tokens: int,
    ends: Collection[int],
    pad_token_id: int,
    device: torch.device,
) -> list[list[int]]:
    """The most likely tokens after each prompt, up to one of `ends`, which is among them.

    For each token all of a text is read again, padded on the right as in training.
    """
    written: list[list[int]] = [[] for _ in prompts]
    going_on = list(range(len(prompts)))
    for _ in range(max_new_tokens):
        texts = [prompts[i] + written[i] for i in going_on]
        features = {
            "input_ids": pad(texts, pad_token_id).to(device),
            "attention_mask": pad([[1] * len(text) for text in texts], 0).to(device),
        }
        lasts = pad([[IGNORED] * (len(text) - 1) + [0] for text in texts], IGNORED).to(device)
        chosen = over_pieces(run_to_output(model, features, lasts), _most_likely)
        for i, token in zip(going_on, chosen.tolist(), strict=True):
            written[i].append(token)
        going_on = [i for i in going_on if written[i][-1] not in ends]
        if not going_on:
            break
    return written


def _most_likely(logits: Tensor, _: Tensor) -> Tensor:
    return logits.argmax(dim=-1)

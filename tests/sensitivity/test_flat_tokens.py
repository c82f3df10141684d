"""Scores of layers that flatten batch and tokens into one axis."""

from __future__ import annotations

import pytest
import torch
from toys.sensitivity import gradients_of, mean_squares, run_scores, values_by_target, weights_of
from transformers import OPTConfig, OPTForSequenceClassification

from autopeft.model import BaseModel
from autopeft.plugins import discover


def test_scores_do_not_depend_on_the_layout_of_tokens():
    """OPT's feed-forward layers see (B T, in)."""
    torch.manual_seed(0)
    config = OPTConfig(
        vocab_size=20, hidden_size=8, ffn_dim=12, num_hidden_layers=1, num_attention_heads=2,
        word_embed_proj_dim=8, max_position_embeddings=16, dropout=0.0, pad_token_id=0,
    )  # fmt: skip
    module = OPTForSequenceClassification(config).eval().requires_grad_(False)
    base = BaseModel(module, None, name="toy opt", untrained=frozenset())
    batch = {"input_ids": torch.randint(3, 20, (4, 5)), "labels": torch.tensor([0, 1, 1, 0])}
    batch["attention_mask"] = torch.ones_like(batch["input_ids"])
    task = discover("autopeft.tasks")["text-classification"]
    seen = run_scores(["gradient", "fisher"], base, [batch, batch], task=task)
    gradient, fisher = (values_by_target(base, scores) for scores in seen.scores)
    weights = weights_of(base)
    assert fisher == pytest.approx(mean_squares(weights, base, task, [batch]), rel=1e-4, abs=1e-12)
    products = {
        name: float((weights[name][0].detach() * grads[0]).abs().sum())
        for name, grads in gradients_of(weights, lambda: task.loss(module, batch)).items()
    }
    assert gradient == pytest.approx(products, rel=1e-4, abs=1e-9)

"""Scores of modules that flatten batch and tokens into one axis."""

from __future__ import annotations

import pytest
import torch
from transformers import OPTConfig, OPTForSequenceClassification

from autopeft.model.targets import list_targets
from autopeft.plugins import discover
from autopeft.sensitivity import ScoredModel, measure


@pytest.mark.parametrize("score", ["gradient", "fisher"])
def test_a_score_does_not_care_how_a_module_lays_out_its_tokens(score):
    # OPT's feed-forward maps see (B T, in); autograd says what the score must be.
    torch.manual_seed(0)
    config = OPTConfig(
        vocab_size=20, hidden_size=8, ffn_dim=12, num_hidden_layers=1, num_attention_heads=2,
        word_embed_proj_dim=8, max_position_embeddings=16, dropout=0.0, pad_token_id=0,
    )  # fmt: skip
    model = OPTForSequenceClassification(config).eval().requires_grad_(False)
    batch = {"input_ids": torch.randint(3, 20, (4, 5)), "labels": torch.tensor([0, 1, 1, 0])}
    batch["attention_mask"] = torch.ones_like(batch["input_ids"])
    task = discover("autopeft.tasks")["text-classification"]
    target = next(target for target in list_targets(model) if target.name.endswith("fc1"))
    part = discover("autopeft.sensitivity")[score]
    scored = ScoredModel(model=model, targets=(target,), task=task)
    values = measure([part], scored, [batch, batch]).scores[0].values
    weight = model.get_submodule(target.name).weight.requires_grad_()
    rows = [{name: tensor[i : i + 1] for name, tensor in batch.items()} for i in range(4)]
    grads = [torch.autograd.grad(task.loss(model, row), weight)[0] for row in rows]
    wanted = {
        "gradient": (weight.detach() * sum(grads) / 4).abs().sum(),
        "fisher": sum(grad.square().sum() for grad in grads) / 4,
    }
    assert values == pytest.approx((float(wanted[score]),), rel=1e-4)

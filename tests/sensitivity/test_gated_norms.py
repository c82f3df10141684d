"""Norms that are called with a gate next to their input, which no adapter fits."""

from __future__ import annotations

import torch
from toys import topologies
from toys.sensitivity import ModelLoss, run_scores

from autopeft.model import BaseModel


def test_a_norm_with_a_gate_is_not_scored_and_the_others_are() -> None:
    module = topologies.build("qwen3_5_text", device="cpu").eval()
    base = BaseModel(module, None, name="toy", untrained=frozenset())
    gated = "model.layers.0.linear_attn.norm"
    assert gated in [target.name for target in base.targets]
    tokens = torch.arange(4, 18).reshape(2, 7)
    batch = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens), "labels": tokens}
    scores = run_scores(["fisher"], base, [batch], task=ModelLoss("CAUSAL_LM"))
    assert gated in scores.unreachable
    for score in scores.scores:
        values = dict(zip([target.name for target in base.targets], score.values, strict=True))
        assert values["model.layers.0.input_layernorm"] > 0

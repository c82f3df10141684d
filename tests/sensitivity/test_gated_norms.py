"""Norms that are called with a gate next to their input, which no adapter fits."""

from __future__ import annotations

import torch
import transformers
from toys.sensitivity import ModelLoss, run_scores

from autopeft.model import BaseModel, Precision

SIZES = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 4}
LINEAR = {
    "linear_num_value_heads": 2,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 4,
    "linear_value_head_dim": 4,
    "linear_conv_kernel_dim": 2,
    "layer_types": ["linear_attention", "full_attention"],
}


def test_a_norm_with_a_gate_is_not_scored_and_the_others_are() -> None:
    torch.manual_seed(0)
    config = transformers.Qwen3_5TextConfig(**SIZES, **HEADS, **LINEAR)
    module = transformers.AutoModelForCausalLM.from_config(config).eval()
    base = BaseModel(module, None, name="toy", untrained=frozenset(), precision=Precision())
    gated = "model.layers.0.linear_attn.norm"
    assert gated in [target.name for target in base.targets]
    tokens = torch.arange(4, 18).reshape(2, 7)
    batch = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens), "labels": tokens}
    scores = run_scores(["fisher"], base, [batch], task=ModelLoss("CAUSAL_LM"))
    assert gated in scores.unreachable
    for score in scores.scores:
        values = dict(zip([target.name for target in base.targets], score.values, strict=True))
        assert values["model.layers.0.input_layernorm"] > 0

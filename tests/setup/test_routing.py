"""Tokens of each expert, next to the experts with the highest router logits."""

from __future__ import annotations

import pytest
import torch
from toys.architectures import V
from toys.topologies import build

from autopeft.setup.scoring import count_routing


@pytest.mark.parametrize("name", ["mixtral", "qwen3_moe"])
def test_counts_equal_a_brute_force_count_without_padding(name):
    model = build(name, device="cpu").eval()
    words = torch.randint(4, V, (3, 9), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(words)
    mask[1, 4:] = mask[2, 7:] = 0
    batch = {"input_ids": words, "attention_mask": mask}
    with torch.no_grad():
        found = count_routing(model, [batch, batch], lambda each: model(**each))
        logits = model(**batch, output_router_logits=True).router_logits
    per_token = model.config.num_experts_per_tok
    expected = []
    for of_layer in logits:
        counts = [0] * of_layer.shape[1]
        for scores, is_word in zip(of_layer.tolist(), mask.flatten().tolist(), strict=True):
            for expert in sorted(range(len(scores)), key=lambda each: -scores[each])[:per_token]:
                counts[expert] += 2 * is_word
        expected.append(tuple(counts))
    assert list(found.values()) == expected
    assert list(found) == [f"model.layers.{layer}.mlp.experts" for layer in range(len(logits))]


def test_a_model_without_routed_experts_has_no_counts():
    model = build("llama", device="cpu")
    words = torch.ones(1, 4, dtype=torch.long)
    assert count_routing(model, [{"input_ids": words}], lambda each: model(**each)) == {}

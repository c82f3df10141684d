"""Layers that peft's LoRA takes for experts: LoRA names their weights, and counts are those of peft."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import transformers
from toys import topologies
from toys.families import V

from autopeft.adapters import compile_plan
from autopeft.model import BaseModel
from autopeft.plugins import discover

METHODS = discover("autopeft.methods")
# The folder in the model's names of the layers that peft takes for experts.
TAKEN = {
    **{name: {"mlp", "mlp.shared_experts"} for name in ("deepseek_v2", "deepseek_v3", "glm4_moe")},
    "deepseek_v3 without experts": {"mlp"},
    "qwen3_next": {"mlp.shared_expert"},
}
OTHERS = {"oft"}
by_architecture = pytest.mark.parametrize("architecture", TAKEN)


@pytest.fixture
def base(architecture):
    config = topologies.build(architecture.split()[0]).config
    if "without experts" in architecture:
        config.first_k_dense_replace = config.num_hidden_layers
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = transformers.AutoModelForCausalLM.from_config(config)
        for parameter in module.parameters():
            if parameter.ndim == 3:  # experts lie as they are in memory
                torch.nn.init.normal_(parameter, std=0.2)
    return BaseModel(module, None, name=f"toy {architecture}", untrained=frozenset())


@by_architecture
def test_lora_names_layers_that_peft_takes_for_experts_by_their_weights(base, architecture):
    taken = [target for target in base.targets if target.by_weight]
    assert {target.name.split(".", 3)[3].rpartition(".")[0] for target in taken} == TAKEN[architecture]
    assert {target.role for target in taken} == {"gate", "up", "down"}
    assert dict(METHODS["lora"].options(taken[0])) == {"by_weight": True}
    assert METHODS["lora"].refusal(replace(taken[0], quantized=True))


@by_architecture
def test_counts_are_those_of_peft_at_every_target_that_fits(base, make_plan):
    """`attached` refuses a plan whose count is another than peft's; gradients reach all that is trained."""
    words = torch.randint(4, V, (2, 9), generator=torch.Generator().manual_seed(0))
    plans = {name: make_plan(base, name) for name in sorted(set(METHODS) - OTHERS)}
    for method, plan in plans.items():
        if not plan.adapters:
            continue
        configs = compile_plan(plan, METHODS).configs
        with base.attached(configs, plan=plan, task_type="CAUSAL_LM", seed=0) as model:
            n_trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
            assert n_trained == plan.trainable_params > 0, method
            model(input_ids=words, labels=words).loss.backward()
            trained = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
            assert [(method, name) for name, gradient in trained.items() if gradient is None] == []

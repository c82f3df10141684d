"""Layers that peft's LoRA takes for experts: other methods adapt them, and counts are peft's."""

from __future__ import annotations

import pytest
import torch
import transformers
from toys.architectures import FEW, MLA, MOE, V

from autopeft.adapters import compile_plan
from autopeft.model import BaseModel
from autopeft.plugins import discover

METHODS = discover("autopeft.methods")
DENSE_FIRST = {"n_shared_experts": 1, "first_k_dense_replace": 1, "moe_intermediate_size": 12}
DEEPSEEK = {**MOE, "num_key_value_heads": 4, **MLA, **DENSE_FIRST, "n_group": 1, "topk_group": 1}
DENSE = {**DEEPSEEK, "first_k_dense_replace": 2}  # all layers are
LINEAR = {
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 4,
    "linear_value_head_dim": 4,
    "layer_types": ["linear_attention", "full_attention"],
}
CONFIGS = {
    "deepseek_v2": lambda: transformers.DeepseekV2Config(**DEEPSEEK, n_routed_experts=4),
    "deepseek_v3": lambda: transformers.DeepseekV3Config(**DEEPSEEK, n_routed_experts=4),
    "deepseek_v3 without experts": lambda: transformers.DeepseekV3Config(**DENSE, n_routed_experts=4),
    "glm4_moe": lambda: transformers.Glm4MoeConfig(**MOE, **DENSE_FIRST, n_routed_experts=4),
    "qwen3_next": lambda: transformers.Qwen3NextConfig(
        **MOE, **FEW, **LINEAR, shared_expert_intermediate_size=20
    ),
}
# The folder in the model's names of the layers that peft takes for experts.
TAKEN = {
    **{name: {"mlp", "mlp.shared_experts"} for name in ("deepseek_v2", "deepseek_v3", "glm4_moe")},
    "deepseek_v3 without experts": {"mlp"},
    "qwen3_next": {"mlp.shared_expert"},
}
OTHERS = {"oft"}
by_architecture = pytest.mark.parametrize("architecture", CONFIGS)


@pytest.fixture
def base(architecture):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = transformers.AutoModelForCausalLM.from_config(CONFIGS[architecture]())
        for parameter in module.parameters():
            if parameter.ndim == 3:  # experts lie as they are in memory
                torch.nn.init.normal_(parameter, std=0.2)
    return BaseModel(module, None, name=f"toy {architecture}", untrained=frozenset())


@by_architecture
def test_layers_that_peft_takes_for_experts_are_targets_that_lora_alone_refuses(base, architecture):
    taken = [target for target in base.targets if "LORA" in target.unfit_for]
    assert {target.name.partition(".mlp")[1][1:] for target in taken} == {"mlp"}
    assert {target.name.split(".", 3)[3].rpartition(".")[0] for target in taken} == TAKEN[architecture]
    assert {target.role for target in taken} == {"gate", "up", "down"}
    for target in taken:
        assert "expert" in METHODS["lora"].refusal(target)
        fitting = {name for name, method in METHODS.items() if method.refusal(target) is None}
        assert fitting >= {"ia3", "hira", "vera", "road", "loha", "oft", "miss"}


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

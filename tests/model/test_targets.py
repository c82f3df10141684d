"""Target modules of many architectures, weights that none reaches, and counts of quantized models."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import transformers
from peft import LoraConfig, PeftModel
from torch import nn
from toys.architectures import CONTEXT, D, F, build, logits, make_inputs, skeleton, train

from autopeft.model import BaseModel, load_weights, save_weights
from autopeft.model.targets import list_targets
from autopeft.plugins import discover
from autopeft.types import Plan

# peft warns that rank patterns of parameters match no module; that they work is what is tested here.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning:peft")
CAUSAL, CLASSES, SEQ2SEQ = "CAUSAL_LM", "SEQ_CLS", "SEQ_2_SEQ_LM"
HALF = D // 2  # outputs of two key heads for four query heads
# Name of a target module of the first layer -> role, inputs, outputs; by hand, from the architectures.
MAPS = {
    ("bert", CLASSES): {
        "bert.encoder.layer.0.attention.self.query": ("q", D, D),
        "bert.encoder.layer.0.attention.self.key": ("k", D, D),
        "bert.encoder.layer.0.attention.output.dense": ("o", D, D),
        "bert.encoder.layer.0.intermediate.dense": ("up", D, F),
        "bert.encoder.layer.0.output.dense": ("down", F, D),
        "bert.encoder.layer.0.output.LayerNorm": ("norm", D, D),
        "bert.pooler.dense": ("dense", D, D),
    },
    ("gpt2", CAUSAL): {
        "transformer.h.0.attn.c_attn": ("qkv", D, 3 * D),
        "transformer.h.0.attn.c_proj": ("o", D, D),
        "transformer.h.0.mlp.c_fc": ("up", D, 4 * D),
        "transformer.h.0.mlp.c_proj": ("down", 4 * D, D),
    },
    ("llama", CAUSAL): {
        "model.layers.0.self_attn.k_proj": ("k", D, HALF),
        "model.layers.0.self_attn.v_proj": ("v", D, HALF),
        "model.layers.0.mlp.gate_proj": ("gate", D, F),
        "model.layers.0.input_layernorm": ("norm", D, D),
        "model.norm": ("norm", D, D),
    },
    ("distilbert", CLASSES): {
        "distilbert.transformer.layer.0.attention.q_lin": ("q", D, D),
        "distilbert.transformer.layer.0.attention.out_lin": ("o", D, D),
        "distilbert.transformer.layer.0.ffn.lin1": ("up", D, F),
        "distilbert.transformer.layer.0.ffn.lin2": ("down", F, D),
    },
    ("albert", CLASSES): {
        "albert.encoder.embedding_hidden_mapping_in": ("dense", 8, D),
        "albert.encoder.albert_layer_groups.0.albert_layers.0.attention.dense": ("o", D, D),
        "albert.encoder.albert_layer_groups.0.albert_layers.0.ffn": ("up", D, F),
        "albert.encoder.albert_layer_groups.0.albert_layers.0.ffn_output": ("down", F, D),
    },
    ("modernbert", CLASSES): {
        "model.layers.0.attn.Wqkv": ("qkv", D, 3 * D),
        "model.layers.0.attn.Wo": ("o", D, D),
        "model.layers.0.mlp.Wi": ("gate_up", D, 2 * F),
        "model.layers.0.mlp.Wo": ("down", F, D),
    },
    ("gpt_neox", CAUSAL): {
        "gpt_neox.layers.0.attention.query_key_value": ("qkv", D, 3 * D),
        "gpt_neox.layers.0.attention.dense": ("o", D, D),
        "gpt_neox.layers.0.mlp.dense_h_to_4h": ("up", D, F),
        "gpt_neox.layers.0.mlp.dense_4h_to_h": ("down", F, D),
    },
    ("phi3", CAUSAL): {
        "model.layers.0.self_attn.qkv_proj": ("qkv", D, D + 2 * HALF),
        "model.layers.0.mlp.gate_up_proj": ("gate_up", D, 2 * F),
        "model.layers.0.mlp.down_proj": ("down", F, D),
    },
    ("mixtral", CAUSAL): {
        "model.layers.0.self_attn.k_proj": ("k", D, HALF),
        "model.layers.0.mlp.experts.gate_up_proj": ("gate_up", D, 2 * F),
        "model.layers.0.mlp.experts.down_proj": ("down", F, D),
    },
    ("gpt_oss", CAUSAL): {  # stored as (experts, in, out), with a flag
        "model.layers.0.mlp.experts.gate_up_proj": ("gate_up", D, 2 * F),
        "model.layers.0.mlp.experts.down_proj": ("down", F, D),
    },
    ("llama4_text", CAUSAL): {  # stored alike, without a flag
        "model.layers.0.feed_forward.experts.gate_up_proj": ("gate_up", D, 2 * F),
        "model.layers.0.feed_forward.experts.down_proj": ("down", F, D),
    },
    ("deepseek_v3", CAUSAL): {
        "model.layers.0.self_attn.q_a_proj": ("q", D, 8),
        "model.layers.0.self_attn.q_b_proj": ("q", 8, 32),
        "model.layers.0.self_attn.kv_a_proj_with_mqa": ("kv", D, 12),
        "model.layers.0.self_attn.kv_b_proj": ("kv", 8, 32),
    },
    ("t5", CLASSES): {
        "transformer.encoder.block.0.layer.0.SelfAttention.q": ("q", D, 32),
        "transformer.encoder.block.0.layer.0.SelfAttention.o": ("o", 32, D),
        "transformer.encoder.block.0.layer.1.DenseReluDense.wo": ("down", F, D),
        "transformer.decoder.block.0.layer.1.EncDecAttention.k": ("k", D, 32),
    },
    ("rwkv", CAUSAL): {
        "rwkv.blocks.0.attention.key": ("dense", D, D),
        "rwkv.blocks.0.attention.value": ("dense", D, D),
        "rwkv.blocks.0.feed_forward.key": ("up", D, F),
        "rwkv.blocks.0.feed_forward.value": ("down", F, D),
        "rwkv.blocks.0.feed_forward.receptance": ("dense", D, D),
    },
    ("bart", SEQ2SEQ): {
        "model.encoder.layers.0.fc1": ("up", D, F),
        "model.decoder.layers.0.encoder_attn.out_proj": ("o", D, D),
    },
    ("vit", "image"): {
        "vit.layers.0.attention.q_proj": ("q", D, D),
        "vit.layers.0.attention.o_proj": ("o", D, D),
        "vit.layers.0.mlp.fc1": ("up", D, F),
    },
}
MOES = ("mixtral", "qwen3_moe", "qwen2_moe", "gpt_oss", "llama4_text")
by_architecture = pytest.mark.parametrize(("architecture", "task_type"), MAPS)


@by_architecture
def test_layers_have_the_roles_and_shapes_of_their_architecture(architecture, task_type):
    targets = {target.name: target for target in skeleton(architecture, task_type).targets}
    expected = MAPS[architecture, task_type]
    seen = {
        name: (targets[name].role, targets[name].in_features, targets[name].out_features) for name in expected
    }
    assert seen == expected


def test_layers_of_swin_are_its_blocks():
    config = transformers.SwinConfig(
        image_size=32, patch_size=4, embed_dim=8, depths=[2, 3, 1], num_heads=[2, 2, 2], window_size=2
    )
    module = transformers.SwinForImageClassification(config)
    targets = list_targets(module, exclude=("classifier",))
    by_block = {".".join(s.name.split(".")[2:6]): s.layer for s in targets if s.role in ("q", "up")}
    assert list(by_block.values()) == [0, 1, 2, 3, 4, 5]
    reductions = [s.layer for s in targets if s.name.endswith("reduction")]
    assert reductions == [1, 4]  # behind the last block of their stages


def test_experts_in_a_module_list_are_one_target_each():
    experts = nn.ModuleList([nn.ModuleDict({"w1": nn.Linear(4, 6), "w2": nn.Linear(6, 4)}) for _ in range(2)])
    module = nn.ModuleDict({"layers": nn.ModuleList([nn.ModuleDict({"experts": experts})])})
    seen = {
        target.name: (target.layer, target.role, target.kind, target.copies)
        for target in list_targets(module)
    }
    assert seen == {
        f"layers.0.experts.{i}.{name}": (0, role, "linear", 1)
        for i in (0, 1)
        for name, role in {"w1": "gate", "w2": "down"}.items()
    }


@pytest.mark.parametrize("architecture", MOES)
def test_routers_are_not_targets_nor_is_the_gate_of_a_shared_expert(architecture):
    targets = skeleton(architecture, CAUSAL).targets
    assert not [
        target.name for target in targets if target.role == "router" or target.name.endswith("expert_gate")
    ]
    assert any(".experts." in target.name for target in targets)


def expert_config(base, ranks):
    """LoRA on experts with a rank of its own for each parameter, and on one layer's queries."""
    patterns = {f"^{name.replace('.', chr(92) + '.')}$": rank for name, rank in ranks.items()}
    return LoraConfig(
        r=2,
        lora_alpha=4,
        target_modules=r"model\.layers\.0\.self_attn\.q_proj",
        target_parameters=sorted(ranks),
        rank_pattern=patterns,
        alpha_pattern={pattern: 2 * rank for pattern, rank in patterns.items()},
    )


@pytest.fixture(params=MOES)
def experts(request):
    """A model with experts, a LoRA config on all but one of their parameters, and its plan."""
    base = build(request.param, CAUSAL)
    chosen = [target for target in base.targets if target.kind == "parameter"][1:]
    ranks = {target.name: 1 + index for index, target in enumerate(chosen)}
    query = next(target for target in base.targets if target.name == "model.layers.0.self_attn.q_proj")
    cost = sum(ranks[s.name] * s.copies * (s.in_features + s.out_features) for s in chosen)
    cost += 2 * (query.in_features + query.out_features)
    return base, expert_config(base, ranks), Plan(adapters=(), learning_rate=1e-3, trainable_params=cost)


def test_lora_on_experts_counts_trains_saves_loads_and_merges(experts, tmp_path):
    base, config, plan = experts
    inputs, digest = make_inputs(CAUSAL), base.sha256()
    names = [name for name, _ in base.module.named_parameters()]
    before = logits(base.module, inputs)
    with base.attached([config], plan=plan, task_type=CAUSAL, seed=0) as model:  # checks the count
        assert torch.equal(logits(model, inputs), before)
        assert min(train(model, inputs).values()) > 1e-6
        trained = logits(model, inputs)
        save_weights(model, ("default",), tmp_path)
    assert (base.sha256(), [name for name, _ in base.module.named_parameters()]) == (digest, names)
    with base.attached([config], plan=plan, task_type=CAUSAL, seed=5) as model:
        load_weights(model, ("default",), tmp_path)
        assert torch.equal(logits(model, inputs), trained)
        torch.testing.assert_close(logits(model.merge_and_unload(safe_merge=True), inputs), trained)
    assert base.sha256() == digest
    plain = PeftModel.from_pretrained(build(base.model_type, CAUSAL).module, tmp_path)
    assert torch.equal(logits(plain, inputs), trained)


def test_pattern_of_one_layer_stays_with_it_where_peft_would_widen_it():
    base = build("mixtral", CAUSAL)
    config = LoraConfig(r=1, target_modules=r"model\.layers\.1\.self_attn\.(q|v)_proj")
    plan = Plan(adapters=(), learning_rate=1e-3, trainable_params=(D + D) + (D + HALF))
    with base.attached([config], plan=plan, task_type=CAUSAL, seed=0) as model:
        names = set(model.targeted_module_names)
    assert names == {f"model.layers.1.self_attn.{end}_proj" for end in "qv"}


class Linear8bit(nn.Linear):
    """An 8-bit layer of bitsandbytes: one int8 per weight."""

    def __init__(self, n_in, n_out):
        super().__init__(n_in, n_out)
        self.weight = nn.Parameter(torch.zeros(n_out, n_in, dtype=torch.int8), requires_grad=False)


class QuantLinear(nn.Module):
    """A GPTQ layer: eight 4-bit weights per int32, all in buffers."""

    def __init__(self, n_in, n_out):
        super().__init__()
        self.in_features, self.out_features = n_in, n_out
        self.register_buffer("qweight", torch.zeros(n_in // 8, n_out, dtype=torch.int32))
        self.register_buffer("qzeros", torch.zeros(1, n_out // 8, dtype=torch.int32))
        self.register_buffer("scales", torch.zeros(1, n_out, dtype=torch.float16))
        self.register_buffer("bias", torch.zeros(n_out))


@pytest.mark.parametrize("packed", [Linear8bit, QuantLinear])
def test_quantized_model_has_the_targets_and_count_of_the_original(packed):
    original, base = skeleton("bert", CLASSES), build("bert", CLASSES)
    for name, child in list(base.module.bert.encoder.named_modules()):
        if isinstance(child, nn.Linear):
            parent = base.module.bert.encoder.get_submodule(name.rpartition(".")[0])
            setattr(parent, name.rpartition(".")[2], packed(child.in_features, child.out_features))
    again = BaseModel(base.module, None, name="quantized", untrained=frozenset())
    assert tuple(replace(target, quantized=False) for target in again.targets) == original.targets
    assert again.base_params == original.base_params
    layers = [target for target in again.targets if target.kind == "linear" and ".encoder." in target.name]
    assert [target.name for target in again.targets if target.quantized] == [target.name for target in layers]


def test_methods_that_compute_with_stored_weights_refuse_quantized_ones():
    """The two lists were measured with bitsandbytes: see research/2026-11-25-quantized-methods.md."""
    targets = list_targets(nn.ModuleDict({"plain": nn.Linear(16, 24), "packed": Linear8bit(16, 24)}))
    assert [target.quantized for target in targets] == [False, True]
    methods = discover("autopeft.methods")
    for name in ("loha", "lokr"):
        assert methods[name].refusal(targets[0]) is None
        assert "quantized" in methods[name].refusal(targets[1])
    for name in ("lora", "hira", "ia3", "miss", "oft", "road", "vera"):
        assert "quantized" not in (methods[name].refusal(targets[1]) or "")


@pytest.mark.parametrize(
    ("architecture", "task_type", "limit"),
    [
        ("bert", CLASSES, CONTEXT),
        ("roberta", CLASSES, CONTEXT),  # its config says 42: it counts from behind the padding's place
        ("gpt2", CAUSAL, CONTEXT),
        ("mpt", CAUSAL, CONTEXT),
        ("t5", SEQ2SEQ, None),
    ],
)
def test_text_may_be_as_long_as_the_model_has_positions(architecture, task_type, limit):
    base = build(architecture, task_type)
    assert base.max_tokens == limit
    if limit is not None:
        base.module(input_ids=torch.full((1, limit), 5))
        with pytest.raises((IndexError, RuntimeError), match=r"index|size"):
            base.module(input_ids=torch.full((1, limit + 1), 5))

"""`count` against what `peft` attaches and saves, for every type of config that it has."""

from __future__ import annotations

import json

import peft
import pytest
import torch
import transformers
from peft import PeftType
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from toys.counting import SHORT, n_trained, tensor_bytes, tiny_config, write_config

from autopeft.commands import count
from autopeft.errors import SpecError

# Every type that peft has, in forms of different parameters or files.
FORMS = {
    "LORA": [
        {**SHORT},
        {**SHORT, "use_dora": True},
        {**SHORT, "init_lora_weights": "pissa"},
        {**SHORT, "init_lora_weights": "orthogonal"},
        {**SHORT, "init_lora_weights": "mica"},
        {**SHORT, "modules_to_save": ["lm_head"]},
        {**SHORT, "modules_to_save": ["embed_tokens", "norm"]},
        {**SHORT, "trainable_token_indices": [1, 2]},
        {"target_modules": ["embed_tokens", "q_proj"]},
        {"target_modules": "all-linear", "rank_pattern": {"q_proj": 3}},
        {"target_modules": r"model\.layers\.1\.mlp\.(?:up|down)_proj", "use_rslora": True},
        {**SHORT, "layer_replication": [[0, 2], [1, 2]]},
    ],
    "ADALORA": [{**SHORT, "total_step": 10}],
    "ADAPTION_PROMPT": [{"target_modules": "self_attn", "adapter_len": 3, "adapter_layers": 2}],
    "BEFT": [{"target_modules": ["v_proj"]}],
    "C3A": [{**SHORT, "block_size": 16}],
    "DEFT": [{**SHORT, "r": 4}],
    "DELORA": [{**SHORT, "r": 4}],
    "FOURIERFT": [{**SHORT, "n_frequency": 10}],
    "GLORA": [{**SHORT}],
    "GRALORA": [{**SHORT, "r": 4}],
    "HIRA": [{**SHORT, "r": 4}],
    "HRA": [{**SHORT, "r": 4}],
    "IA3": [{"target_modules": ["k_proj", "down_proj"], "feedforward_modules": ["down_proj"]}],
    "LILY": [{**SHORT, "r": 4, "stride_A": 2, "num_B": 2}],
    "LN_TUNING": [{"target_modules": ["norm", "input_layernorm"]}],
    "LOHA": [{**SHORT}],
    "LOKR": [{**SHORT}],
    "MISS": [{**SHORT, "r": 4}, {**SHORT, "r": 4, "init_weights": "bat"}],
    "OFT": [{**SHORT, "oft_block_size": 4, "r": 0}],
    "OSF": [{**SHORT, "effective_rank": 8}],
    "PEANUT": [{**SHORT, "r": 4}],
    "POLY": [{**SHORT, "r": 4}],
    "PSOFT": [{**SHORT, "r": 4}],
    "PVERA": [{**SHORT, "r": 4}],
    "RANDLORA": [{**SHORT, "r": 4}],
    "ROAD": [{**SHORT, "group_size": 4}],
    "SHADOW": [{**SHORT}],
    "SHIRA": [{**SHORT, "r": 2}],
    "SUPERTUNING": [{**SHORT}],
    "TINYLORA": [{**SHORT}, {**SHORT, "weight_tying": 1.0}],
    "TRAINABLE_TOKENS": [{"token_indices": [1, 2], "target_modules": ["embed_tokens"]}],
    "UNILORA": [{**SHORT, "theta_d_length": 16}],
    "VBLORA": [{**SHORT, "num_vectors": 4, "vector_length": 8}],
    "VERA": [{**SHORT, "r": 40}, {**SHORT, "r": 4, "save_projection": False}],
    "WAVEFT": [{**SHORT, "n_frequency": 10, "proportional_parameters": False}],
}
CASES = [(kind, form) for kind, forms in FORMS.items() for form in forms]


TYPES = {kind.value: PEFT_TYPE_TO_CONFIG_MAPPING[kind] for kind in PeftType}
READING = {"ADAMSS", "BOFT", "FROD"}  # the base model's weights
TOKENS = {name for name, config in TYPES.items() if issubclass(config, peft.PromptLearningConfig)}


def test_every_type_of_peft_is_tried_or_refused():
    types = {name for name, config in TYPES.items() if config.__module__.startswith("peft.")}
    assert types - set(FORMS) == {"XLORA", *TOKENS, *READING}


@pytest.mark.parametrize("kind", sorted(READING | TOKENS))
def test_virtual_tokens_and_types_that_read_weights_are_refused(kind, tiny_llama, tmp_path):
    form = {"task_type": "CAUSAL_LM", "num_virtual_tokens": 5} if kind in TOKENS else SHORT
    write_config(tmp_path, {"peft_type": kind, **form})
    with pytest.raises(SpecError, match=kind):
        count(tmp_path, model_id=str(tiny_llama))


@pytest.mark.parametrize(("kind", "form"), CASES, ids=[f"{kind}-{i}" for i, (kind, _) in enumerate(CASES)])
@pytest.mark.filterwarnings("ignore")
def test_count_is_what_peft_attaches_and_saves(kind, form, tiny_llama, tmp_path):
    torch.manual_seed(0)
    config = PEFT_TYPE_TO_CONFIG_MAPPING[kind](**form)
    attached = peft.get_peft_model(transformers.LlamaForCausalLM(tiny_config()), config)
    attached.save_pretrained(tmp_path / "saved")
    counted = count(write_config(tmp_path / "config", {"peft_type": kind, **form}), model_id=str(tiny_llama))
    assert counted.trainable_params == n_trained(attached) > 0
    assert counted.adapter_bytes == tensor_bytes(tmp_path / "saved")


def test_adalora_is_counted_at_the_ranks_that_its_training_kept(tiny_llama, tmp_path):
    masks = ([True, False, True, False], [True, True, True, False])
    pattern = {f"model.layers.{n}.self_attn.q_proj.lora_E": mask for n, mask in enumerate(masks)}
    form = {
        "init_r": 4,
        "target_r": 2,
        "total_step": 10,
        "target_modules": ["q_proj"],
        "rank_pattern": pattern,
    }
    folder = write_config(tmp_path / "config", {"peft_type": "ADALORA", **form})
    counted = count(folder, model_id=str(tiny_llama))
    assert (counted.trainable_params, counted.notes) == ((2 + 3) * (32 + 32 + 1), ())
    assert counted.ranks == {"q": (2, 3)}


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"peft_type": "LORA", **SHORT}, {"peft_type": "IA3", "target_modules": ["k_proj"]}),
        ({"peft_type": "LORA", **SHORT}, {"peft_type": "LORA", "r": 2, "target_modules": ["k_proj"]}),
        ({"peft_type": "VERA", **SHORT}, {"peft_type": "SHIRA", "r": 1, "target_modules": ["k_proj"]}),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_mix_is_counted_as_peft_attaches_and_saves_it(first, second, tiny_llama, tmp_path):
    if second["peft_type"] == "IA3":
        second = {**second, "feedforward_modules": []}
    names = [f"{config['peft_type'].lower()}_{i}" for i, config in enumerate((first, second))]
    torch.manual_seed(0)
    configs = [peft.PeftConfig.from_peft_type(**config) for config in (first, second)]
    attached = peft.get_peft_model(transformers.LlamaForCausalLM(tiny_config()), configs[0], names[0])
    peft.inject_adapter_in_model(configs[1], attached.base_model.model, names[1])
    attached.save_pretrained(tmp_path / "saved")
    for name, config in zip(names, (first, second), strict=True):
        write_config(tmp_path / "mix" / name, config)
    (tmp_path / "mix" / "order.json").write_text(json.dumps(names), encoding="utf-8")
    counted = count(tmp_path / "mix", model_id=str(tiny_llama))
    held = [p for n, p in attached.named_parameters() if any(f".{name}" in n for name in names)]
    assert counted.trainable_params == sum(parameter.numel() for parameter in held)
    assert counted.adapter_bytes == tensor_bytes(tmp_path / "saved")

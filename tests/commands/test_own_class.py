"""LoRA for the text model of a checkpoint with images has the names of the class that servers load."""

from __future__ import annotations

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file
from toys.exports import answer, read_config, shake
from toys.families import HEADED, D

TOKENS = torch.tensor([[5, 9, 14, 20, 7, 11]])
LINEAR = {"linear_key_head_dim": 4, "linear_value_head_dim": 4, "linear_num_key_heads": 2}
LINEAR |= {"linear_num_value_heads": 2, "layer_types": ["linear_attention", "full_attention"]}
PLUGINS = {
    "rope_type": "default",
    "mrope_section": [1, 1, 0],
    "rope_theta": 1e4,
    "partial_rotary_factor": 1.0,
}
TOWER = {"depth": 1, "hidden_size": D, "out_hidden_size": D, "intermediate_size": 24, "num_heads": 4}


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """The checkpoint, an adapter of its text model, and the outputs of both together."""
    folder = tmp_path_factory.mktemp("qwen")
    torch.manual_seed(0)
    config = transformers.Qwen3_5Config(
        text_config={**HEADED, **LINEAR, "rope_parameters": PLUGINS},
        vision_config={**TOWER, "patch_size": 4},
        image_token_id=60,
    )
    transformers.Qwen3_5ForConditionalGeneration(config).save_pretrained(folder / "base")
    text = transformers.AutoModelForCausalLM.from_pretrained(folder / "base").float()
    settings = {"target_modules": ["q_proj", "down_proj"], "task_type": "CAUSAL_LM"}
    model = peft.get_peft_model(text, peft.LoraConfig(r=2, **settings))
    shake(model)
    model.save_pretrained(folder / "adapter")
    return folder, model.eval()(input_ids=TOKENS).logits.detach()


def test_own_class_of_the_checkpoint_takes_every_tensor(toy, tmp_path):
    folder, expected = toy
    flags = (folder / "adapter", "--model", folder / "base", "--to", "uniform-lora")
    report = answer(*flags, "--out", tmp_path / "out")
    assert any("Qwen3_5ForConditionalGeneration" in note for note in report["notes"])
    own = transformers.Qwen3_5ForConditionalGeneration.from_pretrained(folder / "base").float()
    model = peft.PeftModel.from_pretrained(own, tmp_path / "out").eval()
    here = {key.replace(".default.", ".") for key in model.state_dict() if ".lora_" in key}
    assert set(load_file(tmp_path / "out/adapter_model.safetensors")) == here
    assert read_config(tmp_path / "out")["auto_mapping"]["base_model_class"] == type(own).__name__
    torch.testing.assert_close(model(input_ids=TOKENS).logits, expected, rtol=0, atol=1e-4)

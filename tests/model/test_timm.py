"""Models of the timm library inside their wrapper of transformers, against timm itself."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
import timm
import torch
from peft import LoraConfig, PeftModel
from safetensors.torch import save_file
from transformers import AutoModelForImageClassification

from autopeft import model
from autopeft.types import ModelSpec, Plan

AUTO = "AutoModelForImageClassification"
PIXELS = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
SMALL = {"img_size": 32, "embed_dim": 24, "depth": 2, "num_heads": 2}
SWIN = {
    "img_size": 32,
    "embed_dim": 16,
    "depths": (1, 1),
    "num_heads": (2, 2),
    "window_size": 4,
    "patch_size": 2,
}


def write(folder: Path, architecture: str, arguments: dict) -> ModelSpec:
    """A checkpoint as timm pushes it to the hub: its own config, weights under its own names."""
    torch.manual_seed(0)
    module = timm.create_model(architecture, num_classes=7, **arguments)
    save_file(module.state_dict(), folder / "model.safetensors", metadata={"format": "pt"})
    config = {
        "architecture": architecture,
        "num_classes": 7,
        "num_features": module.num_features,
        "pretrained_cfg": {**module.pretrained_cfg, "input_size": [3, 32, 32]},
        "model_args": arguments,
    }
    (folder / "config.json").write_text(json.dumps(config, default=str), encoding="utf-8")
    return ModelSpec(id=str(folder))


@pytest.mark.parametrize(
    ("architecture", "arguments", "head", "roles"),
    [
        ("vit_tiny_patch16_224", SMALL, ["head"], {"qkv": 2, "o": 2, "up": 2, "down": 2}),
        ("deit_tiny_distilled_patch16_224", SMALL, ["head", "head_dist"], {"qkv": 2, "up": 2}),
        ("swin_tiny_patch4_window7_224", SWIN, ["head.fc"], {"qkv": 2, "down": 2, "dense": 1}),
    ],
)
def test_a_timm_model_is_loaded_with_a_fresh_head_and_its_weights(
    architecture, arguments, head, roles, tmp_path
):
    spec = write(tmp_path, architecture, arguments)
    base = model.load(spec, auto_class=AUTO, label_names=("a", "b"), needs_tokenizer=False)
    plain = timm.create_model(architecture, num_classes=0, **arguments)
    assert base.head_names == tuple(f"timm_model.{name}" for name in head)
    assert base.base_params == sum(p.numel() for p in plain.parameters())
    assert base.head_params == len(head) * 2 * (plain.num_features + 1)
    found = Counter(target.role for target in base.targets if target.kind == "linear")
    assert {role: found[role] for role in roles} == roles
    stored = timm.create_model(
        architecture, checkpoint_path=tmp_path / "model.safetensors", num_classes=7, **arguments
    )
    with torch.no_grad():
        ours = base.module.eval().timm_model.forward_features(PIXELS)
        torch.testing.assert_close(ours, stored.eval().forward_features(PIXELS))


def test_an_adapter_and_the_head_of_a_timm_model_load_in_plain_peft(tmp_path):
    spec = write(tmp_path, "vit_tiny_patch16_224", SMALL)
    base = model.load(spec, auto_class=AUTO, label_names=("a", "b"), needs_tokenizer=False)
    target = next(target for target in base.targets if target.role == "qkv")
    config = LoraConfig(r=1, target_modules=[target.name], init_lora_weights=False)
    plan = Plan(adapters=(), learning_rate=1.0, trainable_params=target.in_features + target.out_features)
    with base.attached([config], plan=plan, task_type=None, seed=5) as attached, torch.no_grad():
        expected = attached.eval()(pixel_values=PIXELS).logits
        model.save_weights(attached, ("default",), tmp_path / "weights")
    plain = AutoModelForImageClassification.from_pretrained(
        tmp_path, num_labels=2, ignore_mismatched_sizes=True
    )
    with torch.no_grad():
        seen = PeftModel.from_pretrained(plain, tmp_path / "weights").eval()(pixel_values=PIXELS).logits
    assert expected.shape == (2, 2) and torch.equal(seen, expected)

"""Base models that cannot take an example of the task are refused in a sentence, before any training."""

from __future__ import annotations

import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from toys.families import build
from toys.memory import same_weights, weights_of
from toys.tasks import make_toy, with_end_of_text

from autopeft.data import Split
from autopeft.errors import ModelError
from autopeft.model import BaseModel, Precision
from autopeft.plugins import discover
from autopeft.setup.build import prepare
from autopeft.train import encode_splits
from autopeft.types import with_setting

TASKS = discover("autopeft.tasks")


def resnet(**shape):
    sizes = {"embedding_size": 8, "hidden_sizes": [8, 8], "depths": [1, 1]}
    return transformers.ResNetForImageClassification(transformers.ResNetConfig(**sizes, **shape))


def try_examples(task, module, tokenizer):
    """What a search does before it trains, on the rows of a toy."""
    tokenizer = with_end_of_text(tokenizer) if task == "text-generation" else tokenizer
    toy = make_toy(TASKS[task], tokenizer)
    base = BaseModel(module.eval(), toy.tokenizer, name="tiny", untrained=frozenset())
    train = Split(name="train", inputs=tuple(toy.inputs), labels=tuple(toy.labels))
    empty = replace(train, inputs=(), labels=())
    search = replace(train, name="search")
    data = SimpleNamespace(train=train, search=search, confirm=empty, test=empty, joined=lambda *_: train)
    encode_splits(data, base=base, task=toy.task, max_length=32)


def test_model_that_cannot_take_an_example_is_refused(tokenizer):
    with pytest.raises(ModelError, match="channel"):
        try_examples("image-classification", resnet(num_channels=1), tokenizer)


def test_a_pass_in_train_mode_leaves_nothing_behind(tokenizer):
    """ResNet has batch norms, whose statistics a pass in train mode would move, and BERT has dropout."""
    for task, module in (("image-classification", resnet()), ("text-classification", build("bert"))):
        before, random = weights_of(module), torch.get_rng_state()
        try_examples(task, module, tokenizer)
        assert same_weights(before, weights_of(module))
        assert torch.equal(random, torch.get_rng_state())
        assert not any(child.training for child in module.modules())


def test_model_whose_loss_overflows_in_float16_is_trained_in_float32_unless_the_user_says_so(
    model_dir, small_spec, tmp_path, monkeypatch, caplog
):
    folder = shutil.copytree(model_dir, tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    norm = next(name for name in weights if name.endswith("LayerNorm.weight"))
    save_file(weights | {norm: weights[norm] * 1e6}, folder / "model.safetensors", {"format": "pt"})
    half = Precision(dtype="float16")
    monkeypatch.setattr("autopeft.setup.look.model.choose_precision", lambda config, device: half)
    spec = small_spec(tmp_path / "out", model=folder)
    prepared = prepare(with_setting(spec, "execution.dtype", "auto"))
    assert prepared.spec.execution.dtype == prepared.base.precision.dtype == "float32"
    assert "float16" in caplog.text
    with pytest.raises(ModelError, match="float16"):
        prepare(with_setting(spec, "execution.dtype", "float16"))

"""Trained weights with another base model than their own are refused, or a warning is logged."""

from __future__ import annotations

import shutil

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from toys.bases import plan_of_queries
from toys.commands import refused, run
from toys.exports import answer

from autopeft import apply
from autopeft.commands import train_plan
from autopeft.store import read_plan, write_plan


@pytest.fixture
def own_base(model_dir, tmp_path):
    return shutil.copytree(model_dir, tmp_path / "base")


@pytest.fixture
def trained(own_base, data_dir, tmp_path):
    write_plan(tmp_path / "plan.yaml", plan_of_queries(own_base, data_dir, max_steps=2))
    return train_plan(tmp_path / "plan.yaml", out=tmp_path / "adapter").folder


def put_another(folder, *, n_layers=2, seed=1):
    """Replace a base model in its place by a random one of its shape, or deeper."""
    config = transformers.AutoConfig.from_pretrained(folder)
    config.num_hidden_layers = n_layers
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        transformers.AutoModel.from_config(config).save_pretrained(folder)


def merged_notes(trained, out):
    return " ".join(answer(trained, "--to", "merged", "--out", out)["notes"])


def nudge(folder):
    """Change one number by 0.01."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    next(iter(tensors.values())).view(-1)[-1] += 0.01
    save_file(tensors, path, {"format": "pt"})


@pytest.mark.parametrize("change", [put_another, nudge])
def test_other_weights_of_the_base_model_are_noticed(trained, own_base, tmp_path, change):
    assert run("check", trained).exit_code == 0
    assert "other weights" not in merged_notes(trained, tmp_path / "own")
    change(own_base)
    refused(run("check", trained), 2, "other weights", str(trained))
    assert "other weights" in merged_notes(trained, tmp_path / "other")


def test_a_deeper_base_model_gets_no_adapters_in_its_upper_layers(trained, own_base, tmp_path, caplog):
    put_another(own_base, n_layers=4)
    train_plan(trained, out=tmp_path / "again")
    assert "gets no adapters" in caplog.text
    caplog.clear()
    base = transformers.AutoModelForSequenceClassification.from_pretrained(own_base, num_labels=2)
    apply(read_plan(trained), base)
    assert "gets no adapters" in caplog.text
    # A list of targets, as people write it, asks for adapters in every layer.
    merged = run("export", trained, "--to", "merged", "--out", "m")
    refused(merged, 2, "layer.2")

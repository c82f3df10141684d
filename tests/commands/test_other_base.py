"""Trained weights that meet another base model than their own are refused, or at least said to."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from toys.bases import plan_of_queries
from toys.exports import answer, refused
from typer.testing import CliRunner

from autopeft import apply
from autopeft.cli.app import app
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


def verify(*arguments):
    return CliRunner().invoke(app, ["verify", *map(str, arguments)])


def merged_notes(trained, out):
    return " ".join(answer(trained, "--to", "merged", "--out", out)["notes"])


def test_other_weights_in_the_place_of_the_base_model_are_noticed(trained, own_base, tmp_path):
    assert verify(trained).exit_code == 0
    assert "other weights" not in merged_notes(trained, tmp_path / "own")
    put_another(own_base)
    refused(verify(trained), 2, "other weights", str(trained))
    assert "other weights" in merged_notes(trained, tmp_path / "other")


def test_a_deeper_base_model_is_said_to_get_no_adapters_in_its_upper_layers(
    trained, own_base, tmp_path, caplog
):
    put_another(own_base, n_layers=4)
    train_plan(trained, out=tmp_path / "again")
    assert "no adapters in layers 2, 3." in caplog.text
    caplog.clear()
    base = transformers.AutoModelForSequenceClassification.from_pretrained(own_base, num_labels=2)
    apply(read_plan(trained), base)
    assert "no adapters in layers 2, 3." in caplog.text
    # A list of targets, as people write it, asks for adapters in every layer.
    merged = CliRunner().invoke(app, ["export", str(trained), "--to", "merged", "--out", "m"])
    refused(merged, 2, "hold nothing as", "layer.2")


def edit_config(**values):
    def edit(folder):
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return edit


def change_weights(change):
    def edit(folder):
        path = folder / "model.safetensors"
        save_file({name: change(tensor) for name, tensor in load_file(path).items()}, path, {"format": "pt"})

    return edit


def nudge(tensor):
    """Change one number by a thousandth."""
    changed = tensor.clone()
    changed.view(-1)[-1] *= 1.001
    return changed


def swap_two_ids(folder):
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    vocabulary = content["model"]["vocab"]
    *_, first, second = vocabulary
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    path.write_text(json.dumps(content))


def replace_a_word(folder):
    path = folder / "tokenizer.json"
    replacing = {"type": "Replace", "pattern": {"String": "lovely"}, "content": "awful"}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"normalizer": replacing}))


def rename_cls(folder):
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"cls_token": "bad"}))


def without_special_tokens(folder):
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"post_processor": None}))


@pytest.mark.parametrize(
    ("edit", "name"),
    [
        (edit_config(hidden_act="relu"), "config.hidden_act gelu, now relu"),
        (edit_config(layer_norm_eps=0.1), "config.layer_norm_eps 1e-12, now 0.1"),
        (edit_config(num_attention_heads=4), "config.num_attention_heads"),
        (edit_config(is_decoder=True), "config.is_decoder False, now True"),
        (change_weights(lambda tensor: tensor.bfloat16().float()), "other weights"),
        (change_weights(nudge), "other weights"),
        (swap_two_ids, "vocabulary of the tokenizer"),
        (without_special_tokens, "token ids of sample texts"),
        (replace_a_word, "token ids of sample texts"),
        (rename_cls, "tokenizer.cls_token [CLS], now bad"),
    ],
)
def test_every_change_of_the_base_model_is_named(trained, own_base, edit, name, tmp_path):
    edit(own_base)
    refused(verify(trained), 2, name, str(trained))
    assert name in merged_notes(trained, tmp_path / "merged")


def test_edited_label_names_are_refused(trained, tmp_path):
    edit_config(id2label={"0": "bad", "1": "good"})(trained)
    commands = (
        ["verify", trained],
        ["push", trained, "someone/adapter", "--base-model", "a/base", "--dry-run"],
        ["export", trained, "--to", "merged", "--out", tmp_path / "merged"],
    )
    for words in commands:
        refused(CliRunner().invoke(app, [*map(str, words)]), 2, "config.json is damaged or was edited")


def test_a_plan_whose_ranks_were_swapped_after_training_is_refused(trained):
    path = trained / "plan.yaml"
    path.write_text(path.read_text().replace("rank: 2", "rank: 3", 1).replace("rank: 2", "rank: 1", 1))
    refused(verify(trained), 2, "plan.yaml was edited or is of another run")


def test_weights_of_another_run_in_the_place_of_the_best_ones_are_refused(run_copy, tmp_path):
    best = run_copy / "best/weights"
    shutil.rmtree(best)
    train_plan(run_copy, seed=11, out=best)  # the same plan, so that they would fit
    export = ["export", str(run_copy), "--to", "merged", "--out", str(tmp_path / "out")]
    for command in (export, ["verify", str(run_copy)], ["try", str(run_copy), "a good film"]):
        refused(CliRunner().invoke(app, command), 2, "holds weights of another run", "seed 11")

"""`autopeft count`: bad input, notes, and output."""

from __future__ import annotations

import json

import pytest
from huggingface_hub import constants
from toys.commands import refused, run
from toys.counting import LORA, tiny_config, write_config

from autopeft.commands import count


@pytest.mark.parametrize(
    ("content", "code", "word"),
    [
        ({**LORA, "target_modules": ["query", "q_prj"]}, 3, "q_prj"),
        ({**LORA, "r": 0}, 3, "positive"),
        ({**LORA, "peft_type": "LORRA"}, 2, "LORA"),
        ({"r": 4}, 2, "peft_type"),
    ],
)
def test_config_that_cannot_be_counted_is_refused_in_a_sentence(content, code, word, tiny_llama, tmp_path):
    refused(run("count", write_config(tmp_path, content), "--model", tiny_llama), code, word)
    assert [path.name for path in tmp_path.iterdir()] == ["adapter_config.json"]


def test_two_methods_on_one_target_are_refused_and_the_target_is_named(tiny_llama, tmp_path):
    write_config(tmp_path / "a", LORA)
    write_config(
        tmp_path / "b", {"peft_type": "IA3", "target_modules": ["q_proj"], "feedforward_modules": []}
    )
    (tmp_path / "order.json").write_text('["a", "b"]', encoding="utf-8")
    refused(run("count", tmp_path, "--model", tiny_llama), 3, "model.layers.0.self_attn.q_proj")


def test_missing_file_is_refused(tiny_llama, tmp_path):
    path = tmp_path / "no" / "adapter_config.json"
    refused(run("count", path, "--model", tiny_llama), 2, str(path))


def test_folder_without_a_plan_or_an_adapter_is_refused(tmp_path):
    refused(run("count", tmp_path), 2, "plan.yaml", "adapter_config.json")


def test_config_that_names_no_model_asks_for_one(tmp_path):
    refused(run("count", write_config(tmp_path, {**LORA, "base_model_name_or_path": None})), 2, "--model")


def test_what_matches_nothing_is_noted(tiny_llama, tmp_path):
    content = {
        **LORA,
        "target_modules": ["q_proj", "k_proj", "v_prj"],
        "rank_pattern": {r"layers\.1\.self_attn\.k_proj": 20, "up_proj": 3},
        "alpha_pattern": {"layers.7.q_proj": 1},
        "modules_to_save": ["classifier"],
        "from_the_future": 1,
        "peft_version": "9.0.0",
    }
    answer = json.loads(run("count", write_config(tmp_path, content), "--model", tiny_llama, "--json").stdout)
    assert len(answer["notes"]) == 5  # of v_prj, up_proj, layers.7, classifier, from_the_future
    assert answer["trainable_params"] == 2 * 4 * (32 + 32) + 4 * (32 + 16) + 20 * (32 + 16)
    assert answer["by_layer"] == {"0": 4 * (64 + 48), "1": 4 * 64 + 20 * 48}
    assert list(answer["by_role"].items()) == [("k", 24 * 48), ("q", 8 * 64)]
    assert (answer["ranks"], answer["targets"]) == ({"k": [4, 20], "q": [4, 4]}, {"k": 2, "q": 2})


def test_config_that_fits_has_no_notes(tiny_llama, tmp_path):
    content = {**LORA, "task_type": "SEQ_CLS", "rank_pattern": {"q_proj": 2}, "layers_to_transform": [1]}
    assert count(write_config(tmp_path, content), model_id=str(tiny_llama)).notes == ()
    content["modules_to_save"] = ["classifier", "score"]  # what peft writes of any classifier
    assert count(write_config(tmp_path, content), model_id=str(tiny_llama)).notes == ()


def test_revision_without_a_model_is_that_of_the_model_that_the_config_names(tmp_path, monkeypatch):
    hub = tmp_path / "hub" / "models--toy--llama"
    for i, (revision, width) in enumerate({"main": 32, "narrow": 16, "wide": 64}.items()):
        commit = f"{i}" * 40
        (hub / "refs").mkdir(parents=True, exist_ok=True)
        (hub / "refs" / revision).write_text(commit, encoding="utf-8")
        config = tiny_config()
        config.hidden_size, config.head_dim = width, 8
        config.save_pretrained(hub / "snapshots" / commit)
    named = {
        "peft_type": "LORA",
        "r": 1,
        "target_modules": ["up_proj"],
        "base_model_name_or_path": "toy/llama",
    }
    a = write_config(tmp_path / "a", named)
    b = write_config(tmp_path / "b", {**named, "revision": "wide"})
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))  # read at import
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    for path, revision, width in ((a, None, 32), (a, "narrow", 16), (b, None, 64), (b, "narrow", 16)):
        assert count(path, revision=revision).trainable_params == 2 * (width + 64)

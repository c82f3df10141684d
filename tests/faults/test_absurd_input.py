"""A hub that is gone, and files that were cut off while they came from it."""

from __future__ import annotations

import json
import struct

import pytest
from toys.hub import Hub, hub_on_this_machine

from autopeft import commands, model
from autopeft.errors import ModelError
from autopeft.model.checkpoint_source import pretrained_arguments, require_reachable
from autopeft.types import ModelSpec


def count(folder, model, content):
    text = content if isinstance(content, str) else json.dumps({"peft_type": "LORA", **content})
    (folder / "adapter_config.json").write_text(text)
    return commands.count(folder, model_id=str(model))


def test_a_pattern_counts_as_a_list_of_its_names_does(tmp_path, tiny_llama):
    by_pattern = count(tmp_path, tiny_llama, {"r": 4, "target_modules": r".*\.layers\.\d+\..*(q|v)_proj"})
    by_names = count(tmp_path, tiny_llama, {"r": 4, "target_modules": ["q_proj", "v_proj"]})
    assert by_pattern.trainable_params == by_names.trainable_params > 0


def test_a_hub_model_without_a_hub_is_refused_at_once(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    spec = ModelSpec(id="nobody/no-such-model")
    with pytest.raises(ModelError, match="cannot be reached"):
        require_reachable("nobody/no-such-model", spec)


def test_a_cached_hub_model_does_not_wait_for_a_hub_that_is_gone(monkeypatch, tmp_path):
    cached = tmp_path / "models--nobody--cached"
    snapshot = cached / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text(json.dumps({"model_type": "bert", "hidden_size": 24}))
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("a" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    hub = Hub(["nobody/cached"])
    spec = ModelSpec(id="nobody/cached")
    with hub_on_this_machine(hub) as address:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
        assert "local_files_only" not in pretrained_arguments("nobody/cached", spec)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    assert pretrained_arguments("nobody/cached", spec)["local_files_only"]


def test_a_gguf_file_that_ends_in_its_header_is_refused(tmp_path):
    path = tmp_path / "cut.gguf"
    header = b"GGUF" + struct.pack("<IQQ", 3, 1, 4) + struct.pack("<Q", 20) + b"general.architecture"
    path.write_bytes(header[:40])
    with pytest.raises(ModelError, match=r"cut\.gguf"):
        model.load_skeleton(ModelSpec(id=str(path)), auto_class=None)

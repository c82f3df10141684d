"""Files of strangers: each is answered in a sentence, and none hangs."""

from __future__ import annotations

import json
import os
import re
import shutil
import struct

import pytest
from toys.bases import plan_of_queries
from toys.hub import Hub, hub_on_this_machine

import autopeft
from autopeft import budget, commands, model, space
from autopeft.data import load
from autopeft.errors import AutopeftError, DataError, ModelError, SpecError, TargetError
from autopeft.model.checkpoint_source import pretrained_arguments, require_reachable
from autopeft.plugins import discover
from autopeft.store import read_plan, resolve_settings, write_plan
from autopeft.types import DataSpec, ModelSpec

MANY = "9" * 5000
TEXTS = "text-classification"


def read(path, content, *, task="text-classification", **settings):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    read_rows = discover("autopeft.tasks")[task].read_rows
    return load(DataSpec(source=str(path), **settings), seed=0, read_rows=read_rows)


def rows(**cells):
    """60 rows of JSON Lines; a list is taken item by item, again and again."""
    return "\n".join(
        json.dumps(
            {k: v[i % len(v)] if isinstance(v, list) else v for k, v in cells.items()}, ensure_ascii=False
        )
        for i in range(60)
    )


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs devices")
@pytest.mark.parametrize(
    "name", ["plan.yaml", "adapter_config.json", "rows.csv", "rows/train.csv", "model.gguf"]
)
def test_a_device_is_refused_before_it_is_read(tmp_path, name):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.symlink_to(os.devnull)
    with pytest.raises(SpecError, match=f"{path.name} is a device, a pipe or a socket; save its content"):
        if path.suffix == ".csv":
            load(DataSpec(source=str(path if path.parent == tmp_path else path.parent)), seed=0)
        elif path.suffix == ".gguf":
            model.config_of(ModelSpec(id=str(path)))
        else:
            commands.count(str(path))


@pytest.mark.parametrize("label", [1e300, -1e19])
def test_a_label_whose_square_overflows_is_refused(tmp_path, label):
    with pytest.raises(DataError, match="in row 1 of train"):
        read(tmp_path / "d.jsonl", rows(text="x", label=[label, 0.5]), label_kind="number")


def count(folder, model, content):
    text = content if isinstance(content, str) else json.dumps({"peft_type": "LORA", **content})
    (folder / "adapter_config.json").write_text(text)
    return commands.count(folder, model_id=str(model))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"peft_type": "VERA", "r": 0, "target_modules": ["q_proj"]}, "does not fit .*division by zero"),
        ({"r": 8, "lora_alpha": 10**4200, "target_modules": ["q_proj"]}, "does not fit .*too large"),
        (f'{{"peft_type": "LORA", "r": {MANY}}}', "cannot be read .*4300 digits"),
        ({"target_modules": ["q_proj"], "layer_replication": [[0, 1_000_000]]}, "does not fit "),
        ({"target_modules": ["q_proj"], "megatron_config": {"a": 1}}, "does not fit "),
        ({"target_modules": ["q_proj"], "modules_to_save": [["a"]]}, "it should be a list of strings"),
    ],
)
def test_absurd_numbers_in_a_config_are_refused(tmp_path, tiny_llama, content, words):
    with pytest.raises((TargetError, SpecError), match=words):
        count(tmp_path, tiny_llama, content)


def test_a_pattern_counts_as_a_list_of_its_names_does(tmp_path, tiny_llama):
    by_pattern = count(tmp_path, tiny_llama, {"r": 4, "target_modules": r".*\.layers\.\d+\..*(q|v)_proj"})
    by_names = count(tmp_path, tiny_llama, {"r": 4, "target_modules": ["q_proj", "v_proj"]})
    assert by_pattern.trainable_params == by_names.trainable_params > 0


@pytest.mark.parametrize("number", [MANY, f"0x{'f' * 5000}"])
def test_numbers_of_thousands_of_digits_are_refused(tmp_path, number):
    path = tmp_path / "space.yaml"
    path.write_text(f"about: x\nmethods: {{lora: {{max_rank: {number}}}}}\n")
    uses = [
        lambda: space.load(str(path), known_methods=discover("autopeft.methods")),
        lambda: resolve_settings(config=None, env={}, flags={}, assignments=[f"search.trials={number}"]),
        lambda: resolve_settings(
            config=None, env={}, flags={"execution.memory_bytes": number}, assignments=()
        ),
        lambda: budget.parse(number, base_params=1000),
    ]
    for use in uses:
        with pytest.raises(AutopeftError) as caught:
            use()
        assert len(str(caught.value)) < 500


def test_a_revision_longer_than_git_allows_is_refused():
    with pytest.raises(ModelError, match=r"has 70,000 letters, and git allows 255; pass a branch"):
        model.load_skeleton(ModelSpec(id="nobody/model", revision="a" * 70_000), auto_class=None)


def test_a_hub_model_without_a_hub_is_refused_at_once(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    spec = ModelSpec(id="nobody/no-such-model")
    with pytest.raises(
        ModelError, match="no directory and not in the hub's cache, and the hub cannot be reached"
    ):
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


@pytest.fixture
def own_base(model_dir, tmp_path):
    return shutil.copytree(model_dir, tmp_path / "base")


def load_model(folder):
    return model.load(
        ModelSpec(id=str(folder)), auto_class="AutoModelForSequenceClassification", label_names="ab"
    )


def edited(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize("values", [{"torchscript": True}, {"decoder": 7}, {"text_config": 7}])
def test_a_config_of_nonsense_gives_one_sentence(own_base, values):
    edited(own_base / "config.json", **values)
    spec = ModelSpec(id=str(own_base))
    for use in (lambda: load_model(own_base), lambda: model.load_skeleton(spec, auto_class=None)):
        try:
            use()
        except ModelError as error:
            assert str(own_base) in str(error) and "cannot be loaded (" in str(error)


@pytest.mark.parametrize("token_id", [-1, 2**53 + 1])
def test_a_token_id_that_tokenizers_refuse_gives_one_sentence(own_base, token_id):
    content = json.loads((own_base / "tokenizer.json").read_text())
    content["model"]["vocab"][next(reversed(content["model"]["vocab"]))] = token_id
    (own_base / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(ModelError, match=r"base.* cannot be loaded \("):
        load_model(own_base)


@pytest.mark.parametrize("n_bytes", [3, 9, 17, 40])
def test_a_gguf_file_that_ends_in_its_header_gives_one_sentence(tmp_path, n_bytes):
    path = tmp_path / "cut.gguf"
    header = b"GGUF" + struct.pack("<IQQ", 3, 1, 4) + struct.pack("<Q", 20) + b"general.architecture"
    path.write_bytes(header[:n_bytes])
    with pytest.raises(ModelError, match=r"cut\.gguf"):
        model.load_skeleton(ModelSpec(id=str(path)), auto_class=None)


@pytest.mark.parametrize("read", [autopeft.load_plan, autopeft.load_result])
@pytest.mark.parametrize("path", [None, 7, [], b"run"])
def test_what_is_no_path_gives_one_sentence(read, path):
    with pytest.raises(SpecError, match=r"The path is a .*; pass a str or a Path"):
        read(path)


@pytest.mark.parametrize(("key", "value"), [("scale", 1e-45), ("scale", 1e30), ("head_params", -1)])
def test_numbers_without_effect_are_refused_in_a_plan(tmp_path, model_dir, data_dir, key, value):
    path = tmp_path / "plan.yaml"
    write_plan(path, plan_of_queries(model_dir, data_dir, max_steps=2))
    path.write_text(re.sub(rf"{key}: [\d.]+", f"{key}: {value}", path.read_text(), count=1))
    with pytest.raises(SpecError, match=key):
        read_plan(path)


@pytest.mark.parametrize(("name", "value"), [("batch_size", 10**25), ("max_length", 10**25)])
def test_sizes_without_sense_are_refused_before_anything_is_estimated(name, value):
    with pytest.raises(SpecError, match=rf"task.{name} .* should be less than or equal to"):
        commands.estimate_step(commands.EstimateRequest(trained="lora_r4", model_id="x", **{name: value}))


@pytest.mark.parametrize("mapping", ["auto", [1], {"base_model_class": 3}])
def test_an_auto_mapping_of_nonsense_is_no_class(tmp_path, tiny_llama, mapping):
    config = {"peft_type": "LORA", "r": 2, "target_modules": ["q_proj"], "auto_mapping": mapping}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    assert commands.count(tmp_path / "adapter_config.json", model_id=str(tiny_llama)).trainable_params > 0

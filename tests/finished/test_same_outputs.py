"""`autopeft check --run` passes what was exported whole, and finds every fault that is planted in it."""

from __future__ import annotations

import json
import shutil
import weakref
from functools import cache

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from toys.bases import adapters_of, toy_config
from toys.commands import refused, run
from toys.exports import answer
from toys.words import LABEL_NAMES

from autopeft import commands, model
from autopeft.plugins import discover
from autopeft.store import write_plan
from autopeft.types import Adapter, DataSpec, ModelSpec, Plan, PlanDocument, TaskSpec

METHODS = discover("autopeft.methods")
LORA_FORMATS = ("native", "uniform-lora", "merged")
FORMATS = {
    "mixed ranks": LORA_FORMATS,
    "mix of methods": ("native", "merged"),
    "DoRA": ("native", "merged"),
    "4-bit base": LORA_FORMATS,
}


def adapters_for(name, targets):
    maps = [target for target in targets if target.role in ("q", "v", "up", "down")]
    lora = [
        Adapter(method="lora", target=target.name, rank=1 + i % 3, scale=4 / (1 + i % 3) ** 0.5)
        for i, target in enumerate(maps)
        if target.role in ("q", "v")
    ]
    others = {
        "mix of methods": lambda: (
            lora + adapters_of(METHODS["ia3"], [s for s in maps if s.role == "up"], rank=1)
        ),
        "DoRA": lambda: adapters_of(METHODS["lora"], [s for s in maps if s.role == "v"], rank=2, dora=True),
    }
    return tuple(others[name]()) if name in others else tuple(lora)


@pytest.fixture(scope="module")
def train(model_dir, data_dir, tmp_path_factory):
    """A function: name of a plan -> the folder to which `train` wrote it, made once."""

    @cache
    def train(name):
        spec = ModelSpec(id=str(model_dir), quantize="4bit" if name == "4-bit base" else "none")
        auto_class = "AutoModelForSequenceClassification"
        base = model.load(spec, auto_class=auto_class, label_names=LABEL_NAMES, device="cpu")
        adapters, targets = adapters_for(name, base.targets), {target.name: target for target in base.targets}
        cost = sum(METHODS[a.method].cost(targets[a.target], a.rank, dict(a.options)) for a in adapters)
        document = PlanDocument(
            plan=Plan(adapters=adapters, learning_rate=0.05, trainable_params=cost),
            model=spec,
            data=DataSpec(source=str(data_dir)),
            task=TaskSpec(name="text-classification", max_steps=5, batch_size=8, max_length=16),
            base_params=base.base_params,
            head_params=base.head_params,
            schedule="linear",
            seed=0,
        )
        folder = tmp_path_factory.mktemp("trained")
        write_plan(folder / "plan.yaml", document)
        return commands.train_plan(folder / "plan.yaml", out=folder / "trained").folder

    return train


def checked(*arguments):
    result = run("check", *arguments, "--json")
    assert result.exit_code in (0, 1) and result.stdout, result.output
    found = json.loads(result.stdout)
    assert (found["verdict"] == "broken") == (result.exit_code == 1)
    return found


@pytest.mark.parametrize(("name", "to"), [(name, to) for name, formats in FORMATS.items() for to in formats])
def test_every_export_of_a_plan_gives_the_outputs_that_were_confirmed(name, to, train, tmp_path):
    if name == "4-bit base":
        pytest.importorskip("bitsandbytes")
    trained = train(name)
    answer(trained, "--to", to, "--out", tmp_path / "out")
    found = checked(tmp_path / "out", "--run", trained)
    assert found["verdict"] == "good" and found["outputs"]["is_same"], found
    assert bool(found["coverage"]) == (to != "merged")


def test_folder_of_train_is_compared_with_its_own_plan(train):
    assert checked(train("mixed ranks"))["outputs"]["is_same"]


def test_one_model_at_a_time_is_in_memory(train, monkeypatch):
    """Of 8 billion weights each takes 32 GB."""
    load, loaded, n_alive = model.load, [], []

    def load_and_look(*args, **settings):
        n_alive.append(sum(each() is not None for each in loaded))
        base = load(*args, **settings)
        loaded.append(weakref.ref(base.module))
        return base

    trained = train("mixed ranks")
    monkeypatch.setattr(model, "load", load_and_look)
    assert commands.check(str(trained)).outputs.is_same
    assert n_alive == [0, 0]


def edit_tensors(folder, edit):
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    edit(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def edit_config(folder, **values):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def flip_one_value(folder, tmp_path):
    def flip(tensors):
        name = next(name for name in sorted(tensors) if "lora_B" in name and tensors[name].any())
        tensors[name].view(-1)[tensors[name].abs().argmax()] *= -1

    edit_tensors(folder, flip)


def double_alpha(folder, tmp_path):
    config = json.loads((folder / "adapter_config.json").read_text())
    doubled = {key: 2 * alpha for key, alpha in config["alpha_pattern"].items()}
    edit_config(folder, lora_alpha=2 * config["lora_alpha"], alpha_pattern=doubled)


def drop_a_target(folder, tmp_path):
    def drop(tensors):
        for name in [name for name in tensors if "layer.1.attention.self.value.lora" in name]:
            del tensors[name]

    edit_tensors(folder, drop)


def name_another_base(folder, tmp_path):
    other, base = tmp_path / "other", json.loads((folder / "adapter_config.json").read_text())
    source = base["base_model_name_or_path"]
    shutil.copytree(source, other)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        config = toy_config("bert", hidden=32, dropout=0.1)
        transformers.AutoModel.from_config(config).save_pretrained(other)
    edit_config(folder, base_model_name_or_path=str(other))


FAULTS = [flip_one_value, double_alpha, drop_a_target, name_another_base]


@pytest.mark.parametrize("to", ["native", "uniform-lora"])
@pytest.mark.parametrize("plant", FAULTS)
def test_planted_fault_is_found(plant, to, train, tmp_path):
    trained, out = train("mixed ranks"), tmp_path / "out"
    answer(trained, "--to", to, "--out", out)
    plant(out, tmp_path)
    assert checked(out, "--run", trained)["verdict"] == "broken"


def test_what_cannot_be_compared_is_refused(train, tmp_path):
    refused(run("check", tmp_path), 2, "adapter_config.json")
    answer(train("DoRA"), "--to", "merged", "--out", tmp_path / "merged")
    refused(run("check", tmp_path / "merged"), 2, "--run")
    refused(run("check", train("DoRA"), "--run", tmp_path), 2, "--run")

"""A merged model is written in the number format of its checkpoint, and verified as rounded to it."""

from __future__ import annotations

import copy
import json

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from toys.commands import refused
from toys.counting import tiny_config
from toys.exports import answer, export, shake
from typer.testing import CliRunner

from autopeft.cli.app import app
from autopeft.commands import train_plan
from autopeft.store import write_plan
from autopeft.types import DataSpec, ModelSpec, Plan, PlanDocument, RunSpec

CONFIGS = {
    "lora": lambda: peft.LoraConfig(target_modules=["q_proj", "down_proj"], r=2),
    "dora": lambda: peft.LoraConfig(target_modules=["v_proj"], r=2, use_dora=True),
    "ia3": lambda: peft.IA3Config(target_modules=["k_proj"], feedforward_modules=[]),
    "norms": lambda: peft.LNTuningConfig(target_modules=["input_layernorm"]),
}


@pytest.fixture
def made(tmp_path):
    """A function: format and method -> the folders of a checkpoint and an adapter, and `peft`'s own merge."""

    def make(dtype, method):
        torch.manual_seed(0)
        module = transformers.LlamaForCausalLM(tiny_config()).to(dtype)
        module.save_pretrained(tmp_path / "base")
        model = peft.get_peft_model(copy.deepcopy(module).float(), CONFIGS[method]())
        for config in model.peft_config.values():
            config.task_type = "CAUSAL_LM"
        shake(model)
        model.save_pretrained(tmp_path / "adapter")
        return tmp_path / "base", tmp_path / "adapter", model.merge_and_unload().state_dict()

    return make


def write(base, adapter, out, *flags):
    return answer(adapter, "--model", base, "--to", "merged", "--out", out, *flags)


@pytest.mark.parametrize("method", CONFIGS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_weights_are_those_of_a_merge_in_float32_rounded_once(dtype, method, made, tmp_path):
    base, adapter, expected = made(dtype, method)
    report = write(base, adapter, tmp_path / "out")
    name = str(dtype).removeprefix("torch.")
    assert any(name in note for note in report["notes"])
    assert json.loads((tmp_path / "out/config.json").read_text())["dtype"] == name
    stored = load_file(tmp_path / "out/model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {dtype}
    for key, tensor in stored.items():
        torch.testing.assert_close(tensor, expected[key].to(dtype), rtol=0, atol=1e-6, msg=key)


def test_dtype_of_the_user_is_written(made, tmp_path):
    base, adapter, expected = made(torch.bfloat16, "lora")
    write(base, adapter, tmp_path / "wide", "--dtype", "float32")
    stored = load_file(tmp_path / "wide/model.safetensors")
    for key, tensor in stored.items():
        torch.testing.assert_close(tensor, expected[key], rtol=0, atol=1e-6)
    flags = (adapter, "--model", base, "--out", tmp_path / "other")
    refused(export(*flags, "--to", "merged", "--dtype", "int8"), 2, "--dtype is int8", "bfloat16")
    refused(export(*flags, "--to", "native", "--dtype", "float32"), 2, "a whole model", "leave it out")


def test_check_distinguishes_rounding_to_16_bits_from_other_weights(model_dir, data_dir, tmp_path):
    base = tmp_path / "base"
    transformers.AutoModel.from_pretrained(model_dir, dtype=torch.bfloat16).save_pretrained(base)
    transformers.AutoTokenizer.from_pretrained(model_dir).save_pretrained(base)
    document = PlanDocument(
        plan=Plan(adapters=(), learning_rate=0.01, trainable_params=0),
        model=ModelSpec(id=str(base)),
        data=DataSpec(source=str(data_dir)),
        task=RunSpec().task.model_copy(update={"max_steps": 3}),
        base_params=1,
        head_params=0,
        schedule="linear",
        seed=0,
    )
    write_plan(tmp_path / "plan.yaml", document)
    train_plan(tmp_path / "plan.yaml", out=tmp_path / "adapter")
    answer(tmp_path / "adapter", "--to", "merged", "--out", tmp_path / "out")
    arguments = ["check", str(tmp_path / "out"), "--run", str(tmp_path / "adapter")]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert "tolerance 2e-2" in done.output
    stored = load_file(tmp_path / "out/model.safetensors")
    stored["classifier.weight"] *= 1.2
    save_file(stored, tmp_path / "out/model.safetensors", metadata={"format": "pt"})
    assert CliRunner().invoke(app, arguments).exit_code == 1

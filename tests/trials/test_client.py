"""The one file that a training script in another environment imports."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch
import transformers
from toys.folders import write_model

from autopeft.commands.tune import tune
from autopeft.train.rates import MOVE, MOVE_BELOW
from autopeft.trials.study import Study
from autopeft.trials.trial_folders import command

FLAGS = ["--budget", "r4", "--full-steps", "20", "--effort", "quick", "--metric", "accuracy"]
# A trainer that can import the client, peft and transformers, but not autopeft.
TRAINER = """
import sys
sys.modules["autopeft"] = None  # importing it raises ImportError
from autopeft_client import Score, Trial
import torch, transformers
trial = Trial.load(sys.argv[1])
torch.manual_seed(trial.seed)
config = transformers.AutoConfig.from_pretrained(sys.argv[3])
model = trial.attach(transformers.AutoModelForCausalLM.from_config(config))
if trial.steps:
    rows = [{"input_ids": [3, 4, 5], "labels": [3, 4, 5]}] * 8
    args = transformers.TrainingArguments(
        str(trial.path), **trial.arguments, report_to=[], use_cpu=True, disable_tqdm=True, save_strategy="no"
    )
    transformers.Trainer(model, args, train_dataset=rows, callbacks=[trial.callback()]).train()
rows = [float(row < 20) for row in range(40)]
trial.write_score(sys.argv[2], Score(sum(rows) / 40, rows))
"""


def write_client(folder):
    words = [sys.executable, "-m", "autopeft", "tune", "--client", str(folder / "autopeft_client.py")]
    subprocess.run(words, check=True, capture_output=True)


def test_client_imports_nothing_but_the_standard_library(tmp_path):
    write_client(tmp_path)
    code = (
        "import sys, autopeft_client; print(autopeft_client.Score.given(0.5).value, 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout == "0.5 False\n"


def test_command_in_an_environment_without_autopeft_is_tuned_through_the_client(tiny_llama, tmp_path):
    write_client(tmp_path)
    (tmp_path / "train.py").write_text(TRAINER)
    train = command([sys.executable, str(tmp_path / "train.py"), "{trial}", "{result}", str(tiny_llama)])
    study = Study(model=str(tiny_llama), budget="r4", full_steps=4, effort="quick", out=tmp_path / "study")
    result = tune(train, study)
    assert [m.error for m in result.measurements if m.error] == []
    assert (result.best.trainable_params, result.verdict.label) == (4096, "default kept")
    assert (study.path / "best/weights/adapter_model.safetensors").is_file()


def test_written_client_replaces_only_its_own_copies(tmp_path):
    write_client(tmp_path)
    write_client(tmp_path)
    (tmp_path / "other.py").write_text("print()")
    words = [sys.executable, "-m", "autopeft", "tune", "--client", str(tmp_path / "other.py")]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 2
    assert (tmp_path / "other.py").read_text() == "print()"


def test_method_that_the_installed_peft_does_not_have_is_named(tiny_llama, tmp_path):
    trial = Study(model=str(tiny_llama), budget="r4", full_steps=20, out=tmp_path / "study").ask()
    path = trial.config / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "peft_type": "NOVEL"}))
    with pytest.raises(ValueError, match="NOVEL"):
        _ = trial.peft_config


def test_rates_of_a_head_are_its_moves_over_its_inputs(tmp_path):
    """The closed form, by inputs that the test records itself, without the padding."""
    folder = write_model(tmp_path / "bert")
    kind = "AutoModelForSequenceClassification"
    study = Study(model=str(folder), auto_class=kind, budget="r4", full_steps=20, out=tmp_path / "study")
    trial = study.ask()
    model = trial.attach(getattr(transformers, kind).from_pretrained(folder, num_labels=3))
    batch = {
        "input_ids": torch.tensor([[3, 4, 5, 6], [7, 8, 0, 0]]),
        "attention_mask": torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]]),
    }
    adapter, *heads = trial.optimizer_groups(model, batch)
    layers = {
        name: layer
        for name, layer in model.named_modules()
        if ".modules_to_save." in name and isinstance(layer, torch.nn.Linear)
    }
    seen = {}
    for name, layer in layers.items():
        layer.register_forward_pre_hook(lambda _, inputs, name=name: seen.update({name: inputs[0]}))
    model.eval()(**batch)
    moves = [MOVE_BELOW] * (len(layers) - 1) + [MOVE]
    expected = [
        move / (layer.in_features * seen[name].square().mean().sqrt().item())
        for move, (name, layer) in zip(moves, layers.items(), strict=True)
    ]
    assert [group["lr"] for group in heads] == pytest.approx(expected)
    assert adapter["lr"] == trial.learning_rate
    n_trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert sum(p.numel() for group in (adapter, *heads) for p in group["params"]) == n_trained


@pytest.mark.nightly
@pytest.mark.network
@pytest.mark.parametrize(
    "packages", [("peft==0.14.0", "transformers==4.48.0"), ("peft==0.18.1", "transformers==5.6.0")]
)
def test_trainer_in_an_environment_with_an_older_peft_is_tuned(packages, tiny_llama, tmp_path):
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    python = str(tmp_path / "venv" / "bin" / "python")
    subprocess.run([python, "-m", "pip", "install", "-q", "torch", "accelerate", *packages], check=True)
    assert subprocess.run([python, "-c", "import autopeft"], capture_output=True, cwd=tmp_path).returncode
    write_client(tmp_path)
    (tmp_path / "train.py").write_text(TRAINER)
    words = ["autopeft", "tune", "--model", str(tiny_llama), *FLAGS, "--methods", "lora"]
    trainer = [python, str(tmp_path / "train.py"), "{trial}", "{result}", str(tiny_llama)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run(
        [sys.executable, "-m", *words, "--out", str(tmp_path / "study"), "--", *trainer],
        check=True,
        env=environment,
    )
    result = json.loads((tmp_path / "study" / "result.json").read_text())
    assert result["best"]["trainable_params"] == 4096

"""Training functions and scripts of a user, quick and without a training, for studies of seconds."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import peft
import transformers
from safetensors.numpy import save_file

from autopeft.client import Score, Trial

WEIGHTS = "adapter_model.safetensors"
N_ROWS = 40

# A trainer in the standard library alone, which starts in no time. It writes an adapter of the right size.
SCRIPT = """
import json, struct, sys, time
from pathlib import Path
trial = json.loads(Path(sys.argv[1]).read_text())
time.sleep(float(sys.argv[3]) if len(sys.argv) > 3 else 0)
if trial["steps"]:
    n = trial["trainable_params"]
    name = "model.layers.1.self_attn.q_proj.model.layers.1.mlp.down_proj.lora_A.weight"
    header = json.dumps({name: {"dtype": "U8", "shape": [n], "data_offsets": [0, n]}}).encode()
    folder = Path(trial["folder"])
    folder.mkdir(parents=True, exist_ok=True)
    content = struct.pack("<Q", len(header)) + header + bytes(n)
    (folder / "adapter_model.safetensors").write_bytes(content)
    (folder / "adapter_config.json").write_text((Path(trial["config"]) / "adapter_config.json").read_text())
right = round(10 + 1000 * trial["learning_rate"]) % 40
rows = [float(row < right) for row in range(40)]
Path(sys.argv[2]).write_text(json.dumps({"value": sum(rows) / 40, "per_example": rows}))
"""


def write_adapter(trial: Trial, model: Path) -> None:
    """Attach the trial's config to a model of random weights, and save the adapter."""
    config = transformers.AutoConfig.from_pretrained(model)
    adapted = peft.get_peft_model(transformers.AutoModelForCausalLM.from_config(config), trial.peft_config)
    adapted.save_pretrained(str(trial.folder))


def score_of(trial: Trial) -> Score:
    """A score by the plan alone: more rows are right after more steps and at a higher rate."""
    n_right = min(N_ROWS, round(10 + 10 * trial.steps / trial.full_steps + 1000 * trial.learning_rate))
    rows = [float(row < n_right) for row in range(N_ROWS)]
    return Score(value=sum(rows) / N_ROWS, per_example=rows)


def good_trainer(model: Path):
    """A training function that does what a trial says."""

    def train(trial: Trial) -> Score:
        if trial.steps:
            write_adapter(trial, model)
        return score_of(trial)

    return train


def save_other(path: Path) -> None:
    """Put weights of three numbers at one target module in place of an adapter's."""
    save_file({"model.layers.0.self_attn.q_proj.lora_A": np.zeros(3, dtype=np.float32)}, path)


def cut(path: Path) -> None:
    """Leave the first half of a file, as a full disk or a kill does."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def rows_without_seconds(path: Path) -> list[list[str]]:
    """The rows of a trials.csv but for the columns of seconds."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [[value for name, value in row.items() if "seconds" not in name] for row in rows]

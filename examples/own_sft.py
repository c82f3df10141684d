"""Tune trl's `SFTTrainer` on completions: python examples/own_sft.py MODEL [DATA] [STEPS] [OUT]."""

import sys
from importlib.resources import files

from datasets import load_dataset
from transformers import AutoModelForCausalLM, set_seed
from trl import SFTConfig, SFTTrainer

import autopeft

demo = [files("autopeft") / "sample_data/uci_sentiment", 60, None]
name, data, steps, out = [*sys.argv[1:], *demo[len(sys.argv) - 2 :]]
rows = load_dataset("csv", data_files=f"{data}/train.csv")["train"].rename_column("text", "prompt")
rows = rows.map(lambda row: {"completion": " " + row["label"]}, remove_columns="label").select(range(600))
splits = {"search": rows.select(range(100)), "confirm": rows.select(range(100, 200))}


def train(trial):
    """Train, and score each row by its loss."""
    set_seed(trial.seed)
    trainer = SFTTrainer(
        AutoModelForCausalLM.from_pretrained(name),
        SFTConfig(str(trial.path), **trial.arguments, per_device_eval_batch_size=1, bf16=False),
        train_dataset=rows.select(range(200, 600)),
        eval_dataset=splits[trial.split],
        callbacks=[trial.callback()],
        peft_config=trial.peft_config,
    )
    trainer.train()
    model, loader = trainer.model.eval(), trainer.get_eval_dataloader()  # one row a batch
    losses = [trainer.compute_loss(model, row).item() for row in loader]
    return autopeft.Score(value=sum(losses) / len(losses), per_example=losses)


about = {"model": name, "budget": "r16", "full_steps": int(steps), "out": out}
print(autopeft.tune(train, metric="loss", **about).verdict.sentence)

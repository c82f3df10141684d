"""Tune trl's `DPOTrainer` on preferences: python examples/own_dpo.py MODEL [DATA] [STEPS] [OUT]."""

import sys
from importlib.resources import files

from datasets import load_dataset
from transformers import AutoModelForCausalLM, set_seed
from trl import DPOConfig, DPOTrainer

import autopeft

demo = [files("autopeft") / "sample_data/uci_sentiment", 60, None]
name, data, steps, out = [*sys.argv[1:], *demo[len(sys.argv) - 2 :]]
rows = load_dataset("csv", data_files=f"{data}/train.csv")["train"].rename_column("text", "prompt")
other = {"positive": " negative", "negative": " positive"}
rows = rows.map(lambda row: {"chosen": f" {row['label']}", "rejected": other[row["label"]]}).take(600)


def train(trial):
    """Train, and score each row by whether its chosen text gained more than the other."""
    set_seed(trial.seed)
    trainer = DPOTrainer(
        AutoModelForCausalLM.from_pretrained(name),
        args=DPOConfig(
            str(trial.path), **trial.arguments, per_device_eval_batch_size=1, bf16=False, report_to=[]
        ),
        train_dataset=rows.select(range(200, 600)),
        eval_dataset=rows.select(range(100) if trial.split == "search" else range(100, 200)),
        callbacks=[trial.callback()],
        peft_config=trial.peft_config,
    )
    trainer.train()
    model, loader = trainer.model.eval(), trainer.get_eval_dataloader()  # one pair a batch
    losses = [trainer.compute_loss(model, row).item() for row in loader]
    hits = [float(loss < 0.6931) for loss in losses]  # below log 2 the chosen text gained
    return autopeft.Score(value=sum(hits) / len(hits), per_example=hits, loss=sum(losses) / len(losses))


about = {"model": name, "budget": "r16", "full_steps": int(steps), "out": out}
print(autopeft.tune(train, metric="accuracy", **about).verdict.sentence)

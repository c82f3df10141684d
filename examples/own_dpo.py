"""Tune trl's `DPOTrainer` on preferences: python examples/own_dpo.py MODEL [DATA] [STEPS] [OUT]."""

import math
import sys
from importlib.resources import files

import torch
from datasets import Dataset, load_dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed
from trl import DPOConfig, DPOTrainer

import autopeft

demo = [files("autopeft") / "sample_data/uci_sentiment", 60, None]
name, data, steps, out = [*sys.argv[1:], *demo[len(sys.argv) - 2 :]]
rows = load_dataset("csv", data_files=f"{data}/train.csv")["train"].select(range(600))
words = {"positive": (" positive", " negative"), "negative": (" negative", " positive")}  # chosen, rejected
pairs = [
    dict(zip(("prompt", "chosen", "rejected"), (row["text"], *words[row["label"]]), strict=True))
    for row in rows
]
splits = {"search": pairs[:100], "confirm": pairs[100:200]}


def train(trial):
    """The score of a row is whether its chosen text gained more than the other."""
    set_seed(trial.seed)
    rates = {"learning_rate": trial.learning_rate, "warmup_steps": trial.warmup_steps}
    lengths = {"max_steps": trial.steps, "seed": trial.seed, "per_device_eval_batch_size": 1}
    trainer = DPOTrainer(
        AutoModelForCausalLM.from_pretrained(name),
        args=DPOConfig(str(trial.path), **rates, **lengths, save_strategy="no", report_to=[], bf16=False),
        train_dataset=Dataset.from_list(pairs[200:]),
        eval_dataset=Dataset.from_list(splits[trial.split]),
        processing_class=AutoTokenizer.from_pretrained(name),
        callbacks=[trial.callback()],
        peft_config=trial.config,
    )
    trainer.train()
    with torch.no_grad():  # one pair a batch; the loss is below log 2 if the chosen text gained
        losses = [
            trainer.compute_loss(trainer.model.eval(), row).item() for row in trainer.get_eval_dataloader()
        ]
    is_preferred, loss = [float(loss < math.log(2)) for loss in losses], math.fsum(losses) / len(losses)
    return autopeft.Score(value=sum(is_preferred) / len(losses), per_example=is_preferred, loss=loss)


about = {"metric": "accuracy", "budget": "r16", "full_steps": int(steps), "out": out}
print(autopeft.tune(train, model=name, **about).verdict.sentence)

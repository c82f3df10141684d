"""What a competent user writes first: Optuna over LoRA settings around the `Trainer` of transformers.

    python benchmarks/speed/naive.py --model FOLDER --data FOLDER [--trials N] [--steps S]

The defaults of the `Trainer`: float32, random batches padded to their longest row, one evaluation an epoch.
Every trial loads the model again and is judged on the whole validation split. FOLDER of --data has train.csv
and validation.csv with the columns text and label. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import optuna
import transformers
from peft import LoraConfig, TaskType, get_peft_model

TARGETS = {
    "attention": ["query", "value"],
    "all": ["query", "key", "value", "dense"],
}
BATCH_SIZE = 32


def load_data(folder: Path, tokenizer: Any) -> tuple[datasets.DatasetDict, list[str]]:
    """Load tokenized splits with integer labels, and the names of the labels."""
    files = {split: str(folder / f"{split}.csv") for split in ("train", "validation")}
    data = datasets.load_dataset("csv", data_files=files)
    names = sorted(map(str, set(data["train"]["label"])))

    def encode(rows: dict[str, list[Any]]) -> dict[str, Any]:
        labels = [names.index(str(label)) for label in rows["label"]]
        return {**tokenizer(rows["text"], truncation=True, max_length=128), "labels": labels}

    return data.map(encode, batched=True, remove_columns=data["train"].column_names), names


def accuracy(prediction: transformers.EvalPrediction) -> dict[str, float]:
    """Compute the share of right labels."""
    return {"accuracy": float(np.mean(prediction.predictions.argmax(-1) == prediction.label_ids))}


def lora(trial: optuna.Trial) -> LoraConfig:
    """Build the LoRA of a trial."""
    rank = trial.suggest_categorical("r", [4, 8, 16, 32])
    return LoraConfig(
        r=rank,
        lora_alpha=rank * trial.suggest_categorical("alpha_factor", [1, 2]),
        target_modules=TARGETS[trial.suggest_categorical("target_modules", list(TARGETS))],
        task_type=TaskType.SEQ_CLS,
    )


def main() -> None:
    """Run the study."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--trials", type=int, default=6)
    parser.add_argument("--steps", type=int, default=40)
    given = parser.parse_args()
    tokenizer = transformers.AutoTokenizer.from_pretrained(given.model)
    data, names = load_data(given.data, tokenizer)
    transformers.logging.set_verbosity_error()

    def objective(trial: optuna.Trial) -> float:
        model = transformers.AutoModelForSequenceClassification.from_pretrained(
            given.model, num_labels=len(names)
        )
        model = get_peft_model(model, lora(trial))
        with tempfile.TemporaryDirectory() as folder:
            arguments = transformers.TrainingArguments(
                output_dir=folder,
                learning_rate=trial.suggest_float("learning_rate", 1e-4, 1e-2, log=True),
                per_device_train_batch_size=BATCH_SIZE,
                max_steps=given.steps,
                eval_strategy="epoch",
                seed=trial.number,
                report_to="none",
                disable_tqdm=True,
            )
            trainer = transformers.Trainer(
                model=model,
                args=arguments,
                train_dataset=data["train"],
                eval_dataset=data["validation"],
                processing_class=tokenizer,
                compute_metrics=accuracy,
            )
            trainer.train()
            evaluated = [entry for entry in trainer.state.log_history if "eval_accuracy" in entry]
            return float(evaluated[-1]["eval_accuracy"])

    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=0))
    study.optimize(objective, n_trials=given.trials)
    n_examples = given.trials * given.steps * BATCH_SIZE
    print(json.dumps({"train_examples": n_examples, "best": study.best_value, "params": study.best_params}))


if __name__ == "__main__":
    main()

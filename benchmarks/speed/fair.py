"""The same search as `naive.py` by a user who knows how to make the `Trainer` fast.

    python benchmarks/speed/fair.py --model FOLDER --data FOLDER [--trials N] [--steps S]

bfloat16, batches of rows of similar length, the model read once and copied for each trial, large evaluation
batches, one evaluation at the end, nothing saved. Arguments and output are those of `naive.py`.
"""

from __future__ import annotations

import argparse
import copy
import json
import tempfile
from pathlib import Path

import optuna
import torch
import transformers
from naive import BATCH_SIZE, accuracy, load_data, lora
from peft import get_peft_model


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
    base = transformers.AutoModelForSequenceClassification.from_pretrained(given.model, num_labels=len(names))

    def objective(trial: optuna.Trial) -> float:
        model = get_peft_model(copy.deepcopy(base), lora(trial))
        with tempfile.TemporaryDirectory() as folder:
            arguments = transformers.TrainingArguments(
                output_dir=folder,
                learning_rate=trial.suggest_float("learning_rate", 1e-4, 1e-2, log=True),
                per_device_train_batch_size=BATCH_SIZE,
                per_device_eval_batch_size=64,
                max_steps=given.steps,
                bf16=True,
                use_cpu=not torch.cuda.is_available(),
                train_sampling_strategy="group_by_length",
                dataloader_pin_memory=False,
                save_strategy="no",
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
            return float(trainer.evaluate()["eval_accuracy"])

    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=0))
    study.optimize(objective, n_trials=given.trials)
    n_examples = given.trials * given.steps * BATCH_SIZE
    print(json.dumps({"train_examples": n_examples, "best": study.best_value, "params": study.best_params}))


if __name__ == "__main__":
    main()

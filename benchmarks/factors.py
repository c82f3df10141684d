"""What does each part of a recipe contribute? One LoRA on one dataset, with one factor changed at a time.

    python benchmarks/factors.py OUT.csv --data FOLDER [--model NAME] [--set NAME] [--rows 2500]

The recipe is like that of searches before 2026-12-01, in the plain loop of `sweep.py`: LoRA on q and v
within 0.2 % of MiniLM-L6, 85 % of the train rows, 5 epochs, and 0.08 as the learning rate of the task head.
It varies the rows (all of train and validation), the steps (as many as 5 epochs of all rows), both learning
rates, the modules, and several of these. A row of OUT.csv is a run; runs already there are skipped. Nothing
is selected by them.
"""

from __future__ import annotations

import argparse
import time
from itertools import product
from pathlib import Path
from typing import NamedTuple

import torch
from rows import append, as_a_user_has_them, measured_keys
from sweep import BATCH_SIZE, EPOCHS_OF_MANY, Problem, Run, encode, evaluate, trained
from transformers import AutoTokenizer

TRAIN_SHARE = 0.85
FIELDS = ("data", "n_rows", "seed", "factor", "n_trained", "n_steps", "rate", "head_rate", "test", "seconds")


class Recipe(NamedTuple):
    """A way to train the LoRA."""

    has_all_rows: bool = False
    has_more_steps: bool = False
    placement: str = "q+v"
    rate: float = 3e-3
    head_rate: float = 0.08


RECIPES = {
    "as before": Recipe(),
    "rows": Recipe(has_all_rows=True),
    "steps": Recipe(has_more_steps=True),
    "all linear layers": Recipe(placement="all"),
    "adapter's rate / 3": Recipe(rate=1e-3),
    "adapter's rate x 3": Recipe(rate=1e-2),
    "head's rate / 4": Recipe(head_rate=0.02),
    "head's rate / 16": Recipe(head_rate=0.005),
    "rows, steps, head's rate / 4": Recipe(has_all_rows=True, has_more_steps=True, head_rate=0.02),
    "rows, steps, all linear layers": Recipe(has_all_rows=True, has_more_steps=True, placement="all"),
}


def main() -> None:
    """Measure what the table does not have yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default="sentence-transformers/all-MiniLM-L6-v2")
    parser.add_argument("--set", default="mrpc")
    parser.add_argument("--rows", type=int, default=2500)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    options = parser.parse_args()
    torch.set_num_threads(1)
    done, tokenizer = measured_keys(options.out, FIELDS[:4]), AutoTokenizer.from_pretrained(options.model)
    for seed, (factor, recipe) in product(options.seeds, RECIPES.items()):
        key = (options.set, str(options.rows), str(seed), factor)
        if key in done:
            continue
        splits = as_a_user_has_them(options.data / options.set, options.rows, seed)
        problem = Problem(tuple(sorted({row["label"] for row in splits["train"]})), has_tags=False)
        encoded = {split: encode(rows, problem, tokenizer) for split, rows in splits.items()}
        everything, n_few = encoded["train"] + encoded["validation"], round(TRAIN_SHARE * options.rows)
        train = everything if recipe.has_all_rows else everything[:n_few]
        n_counted = len(everything) if recipe.has_more_steps else n_few
        n_steps = -(-EPOCHS_OF_MANY * n_counted // BATCH_SIZE)
        started, run = time.perf_counter(), Run(recipe.placement, recipe.rate, recipe.head_rate)
        test = evaluate(
            trained(options.model, run, train, n_steps, problem, seed=seed)[0], encoded["test"], problem
        )
        row = (*key, len(train), n_steps, recipe.rate, recipe.head_rate, f"{test.main:.4f}")
        append(options.out, FIELDS, (*row, f"{time.perf_counter() - started:.1f}"))


if __name__ == "__main__":
    main()

"""How fast should a new task head learn? Full runs of one LoRA at several head rates, on many datasets.

    python benchmarks/head_rate.py OUT.csv --data FOLDER [--sets NAME …] [--rows 400 2500] [--noise 0 0.4]

MiniLM-L6, LoRA on q and v under a budget of 0.2 %, epochs and batch size as a search derives them. A row of
OUT.csv is a run. `n_rows` rows of the train file are given to a search. The adapter is judged on the
validation file and up to 1,000 train rows that are left over, which may choose a rate, and on the test file,
which may not. `move` is how far a step of AdamW at the head's rate moves an output (`autopeft.train.rates`).
`noise` is the share of train labels that are replaced at random. Rows that OUT.csv holds are not measured
again.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import torch
from rows import SETS, TAGS, append, measured_keys, splits_of, write_splits

from autopeft import train
from autopeft.setup.build import prepare
from autopeft.setup.feasible import fit_to_budget, requested_space
from autopeft.space import Policy, plan_of
from autopeft.types import BudgetSpec, DataSpec, Fidelity, OutputSpec, RunSpec, TaskSpec

MOVES = (2.0, 0.5, 0.125)
FIELDS = (
    *("data", "noise", "n_rows", "seed", "move", "n_steps"),
    *("judged", "judged_loss", "test", "test_loss", "train_loss"),
)


def runs_of(
    folder: Path, name: str, *, n_rows: int, noise: float, seed: int, moves: Sequence[float]
) -> Iterator[tuple[object, ...]]:
    """Yield a row of the table for each move."""
    splits, rng = splits_of(folder / name, n_rows, seed), np.random.default_rng(0)
    names = sorted({row["label"] for row in splits["train"]}) if noise else []
    for row in splits["train"] if noise else []:
        if rng.random() < noise:
            row["label"] = names[rng.integers(len(names))]
    with tempfile.TemporaryDirectory() as scratch:
        write_splits(splits, Path(scratch))
        spec = RunSpec(
            data=DataSpec(source=scratch),
            task=TaskSpec(name="token-classification" if name in TAGS else "text-classification"),
            budget=BudgetSpec(requested="0.2%"),
            output=OutputSpec(out=f"{scratch}/run"),
        )
        prepared = prepare(spec)
        context = fit_to_budget(prepared.spec, prepared.base, requested_space(spec))[1]
        low, high = context.methods["lora"].learning_rate_range
        policy = Policy(method="lora", placement="q+v", learning_rate=low * (high / low) ** 0.38)
        bench = replace(prepared.bench, keep_weights=lambda plan, seed: Path(scratch) / "weights")
        plan, usual = plan_of(policy, context), bench.head_rates
        for move in moves:
            losses = list[float]()
            vars(bench)["head_rates"] = usual.at(usual.output * move / usual.move)
            fidelity = Fidelity(
                split="confirm",
                train_steps=prepared.full_steps,
                train_examples=prepared.full_steps * bench.batch_size,
                eval_examples=prepared.n_evaluated("confirm"),
                seed=seed,
            )
            with train.watched(lambda step, n_steps, loss, losses=losses: losses.append(loss())):
                judged = bench.measure(plan, fidelity)
            n_test = prepared.n_evaluated("test")
            test = bench.measure(plan, replace(fidelity, split="test", eval_examples=n_test))
            last = np.mean(losses[-max(1, len(losses) // 10) :])
            yield (
                *(name, f"{noise:g}", n_rows, seed, f"{move:g}", prepared.full_steps),
                *(f"{value:.4g}" for value in (judged.metric, judged.loss, test.metric, test.loss, last)),
            )


def main() -> None:
    """Measure what the table does not have yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", default=list(SETS))
    parser.add_argument("--rows", type=int, nargs="+", default=[400, 2500])
    parser.add_argument("--noise", type=float, nargs="+", default=[0.0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--moves", type=float, nargs="+", default=list(MOVES))
    options = parser.parse_args()
    torch.set_num_threads(1)
    measured = measured_keys(options.out, ("data", "noise", "n_rows", "seed", "move"))
    for seed, n_rows, noise, name in product(options.seeds, options.rows, options.noise, options.sets):
        done = {key[-1] for key in measured if key[:-1] == (name, f"{noise:g}", str(n_rows), str(seed))}
        moves = [move for move in options.moves if f"{move:g}" not in done]
        if moves:
            for row in runs_of(options.data, name, n_rows=n_rows, noise=noise, seed=seed, moves=moves):
                append(options.out, FIELDS, row)


if __name__ == "__main__":
    main()

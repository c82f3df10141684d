"""LoRA as the documentation of peft trains it, on the datasets of `race_gains.py`.

    python benchmarks/studies/usual_recipe.py OUT.csv --data FOLDER [--sets …] [--seeds 0 1 2] [--steps 300]

Rank 8 and alpha 16 on q and v, and one learning rate for adapter and head: 3e-4 as in the example of
sequence classification, or 1e-3 as in the quicktour and the guide to token classification. The loop of
`outside_loop.py` trains it on the rows of a search; 300 steps are those of a search's full run. Rows that
OUT.csv has are not measured again.
"""

from __future__ import annotations

import argparse
import csv
from dataclasses import replace
from pathlib import Path

import torch
from outside_loop import Run, predictions, score
from race_gains import BATCH_SIZE, SETS, spec_of

from autopeft.setup.build import prepare
from autopeft.setup.feasible import fit_to_budget, requested_space
from autopeft.space import listed_policies, plan_of
from autopeft.types import with_setting

RANK, ALPHA = 8, 16
RATES = (3e-4, 1e-3)
FIELDS = "data steps seed rate params confirm test".split()


def main() -> None:
    """Measure what the table does not have yet."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", help="A folder or hub id instead of MiniLM-L6.")
    parser.add_argument("--sets", nargs="+", default=SETS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rates", type=float, nargs="+", default=RATES)
    parser.add_argument("--steps", type=int, default=300)
    given = parser.parse_args()
    torch.set_num_threads(1)
    done = set()
    if given.out.exists():
        with given.out.open(encoding="utf-8") as file:
            done = {
                (row["data"], int(row["steps"]), int(row["seed"]), float(row["rate"]))
                for row in csv.DictReader(file)
            }
    cells = [(seed, name, rate) for seed in given.seeds for name in given.sets for rate in given.rates]
    for seed, name, rate in cells:
        if (name, given.steps, seed, rate) in done:
            continue
        spec = spec_of(
            given.data / name, f"r{RANK}", n_steps=given.steps, seed=seed, out=Path(), model=given.model
        )
        prepared = prepare(with_setting(spec, "execution.dtype", "float32"))
        feasible, context = fit_to_budget(prepared.spec, prepared.base, requested_space(spec))
        policies = listed_policies(feasible, prepared.task.defaults.family, context)
        policy = next(policy for arm, policy in policies if str(arm) == "baseline: LoRA on q and v")
        plan = plan_of(policy, context)
        targets = {target.name: target for target in prepared.base.chosen}
        adapters = tuple(replace(each, rank=RANK, scale=ALPHA / RANK) for each in plan.adapters)
        sizes = (targets[each.target].in_features + targets[each.target].out_features for each in adapters)
        plan = replace(plan, adapters=adapters, learning_rate=rate, trainable_params=RANK * sum(sizes))
        run = Run(n_steps=given.steps, batch_size=BATCH_SIZE, seed=100 + seed)
        splits = [prepared.data.confirm, prepared.data.test]
        guesses = predictions(plan, prepared.base, prepared.data, splits, run)
        scores = [
            score(prepared.task.metric.name, prepared.data, split, each)
            for split, each in zip(splits, guesses, strict=True)
        ]
        is_new = not given.out.exists()
        with given.out.open("a", newline="", encoding="utf-8") as file:
            values = [
                name,
                given.steps,
                seed,
                rate,
                plan.trainable_params,
                *(f"{value:.4f}" for value in scores),
            ]
            csv.writer(file).writerows([FIELDS] * is_new + [values])


if __name__ == "__main__":
    main()

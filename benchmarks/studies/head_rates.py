"""The learning rate of the task head by kind of task: full runs at multiples of the trainer's own rate.

    python benchmarks/studies/head_rates.py OUT.csv --data FOLDER [--steps 300] [--seeds 101 102]

MiniLM-L6, a budget of 0.1 %, batches of 16 rows, in autopeft's own trainer: LoRA on q and v at 0.38 of its
range of rates, and RoAd on all linear layers at 0.5. Scores are of the confirm split; test is not read.
Rows that OUT.csv has are not measured again.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import torch

from autopeft.setup.build import prepare
from autopeft.setup.feasible import fit_to_budget, requested_space
from autopeft.space import Policy, plan_of
from autopeft.train import Bench
from autopeft.train.rates import HeadRates
from autopeft.types import BudgetSpec, DataSpec, Fidelity, OutputSpec, Plan, RunSpec, TaskSpec

BATCH_SIZE = 16
TAGS, TEXTS = "token-classification", "text-classification"
SETS = dict.fromkeys(("snips_slots", "wnut17"), TAGS) | dict.fromkeys(
    ("stsb", "banking77", "clinc_domain10", "med", "uci_sentiment", "poem_sentiment"), TEXTS
)
PLANS = {"LoRA q v": ("lora", "q+v", 0.38), "RoAd": ("road", "all", 0.5)}  # method, placement, position
FACTORS = (1.0, 3.0, 6.0)
FIELDS = (
    "data plan position params learning_rate factor head_rate steps seed metric loss score seconds".split()
)


def plans_of(spec: RunSpec) -> tuple[Bench, str, Mapping[str, Plan]]:
    """Return the bench of a dataset, the name of its task, and the plans to train."""
    prepared = prepare(spec)
    context = fit_to_budget(prepared.spec, prepared.base, requested_space(spec))[1]
    plans = {}
    for label, (method, placement, position) in PLANS.items():
        low, high = context.methods[method].learning_rate_range
        policy = Policy(method=method, placement=placement, learning_rate=low * (high / low) ** position)
        plans[label] = plan_of(policy, context)
    return prepared.bench, prepared.task.name, plans


def measure(
    bench: Bench, plan: Plan, *, factor: float, n_steps: int, seed: int
) -> tuple[float, object, object]:
    """Measure loss and metric on confirm after a full run; also return the head's rate."""
    usual = bench.head_rates
    scaled = {name: rate * factor for name, rate in usual.by_name.items()}
    vars(bench)["head_rates"] = HeadRates(by_name=scaled, output=usual.output * factor)
    fidelity = Fidelity(
        split="confirm",
        train_steps=n_steps,
        train_examples=n_steps * BATCH_SIZE,
        eval_examples=len(bench.splits["confirm"].labels),
        seed=seed,
    )
    seen = bench.measure(plan, fidelity)
    vars(bench)["head_rates"] = usual
    return usual.output * factor, seen.loss, seen.metric


def main() -> None:
    """Measure what the table does not have yet."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, nargs="+", default=[101, 102])
    parser.add_argument("--sets", nargs="+", default=list(SETS))
    given = parser.parse_args()
    torch.set_num_threads(1)
    known = set()
    if given.out.exists():
        with given.out.open(encoding="utf-8") as file:
            known = {
                (row["data"], row["plan"], row["factor"], row["steps"], row["seed"])
                for row in csv.DictReader(file)
            }
    for seed, name in ((seed, name) for seed in given.seeds for name in given.sets):
        runs = [(label, factor) for label in PLANS for factor in FACTORS]
        runs = [
            (label, factor)
            for label, factor in runs
            if (name, label, f"{factor:g}", str(given.steps), str(seed)) not in known
        ]
        if not runs:
            continue
        with tempfile.TemporaryDirectory() as folder:
            task = TaskSpec(name=SETS[name], max_steps=given.steps, batch_size=BATCH_SIZE)
            bench, task_name, plans = plans_of(
                RunSpec(
                    data=DataSpec(source=str(given.data / name)),
                    task=task,
                    budget=BudgetSpec(requested="0.1%"),
                    output=OutputSpec(out=folder),
                )
            )
        for label, factor in runs:
            begun, plan = time.perf_counter(), plans[label]
            rate, loss, score = measure(bench, plan, factor=factor, n_steps=given.steps, seed=seed)
            row = (
                *(name, label, PLANS[label][2], plan.trainable_params, f"{plan.learning_rate:.4g}"),
                *(f"{factor:g}", f"{rate:.3g}", given.steps, seed, task_name, loss, score),
                f"{time.perf_counter() - begun:.1f}",
            )
            is_new = not given.out.exists()
            with given.out.open("a", newline="", encoding="utf-8") as file:
                csv.writer(file).writerows([FIELDS, row] if is_new else [row])


if __name__ == "__main__":
    main()

"""More fresh seeds for plans that a table of `real_gains.py` holds, without searching again.

    python reports/studies/more_seeds.py TABLE --data FOLDER --sets NAME ... [--seeds 104 105] [--steps 300]
    python reports/studies/more_seeds.py TABLE --data FOLDER --sets NAME --again

A row names an arm, its size and its rate; the arm's plan under the row's budget is made again, must have the
row's size, and is trained by `outside_loop.py` as the row was. Equal plans of a set are trained once a seed.
`--again` trains the first row of each set once more and prints both scores. Rows that TABLE holds are not
computed again.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from outside_loop import Run, predictions, score
from real_gains import BATCH_SIZE, GAIN_FIELDS, TAGGED, append, context_of

from autopeft import space
from autopeft.data import LabelledData, load, read_texts, read_tokens
from autopeft.model import BaseModel
from autopeft.model import load as load_model
from autopeft.records import BudgetSpec, DataSpec, ModelSpec, Plan, RunSpec, TaskSpec
from autopeft.space import AllocationContext, Policy

Row = Mapping[str, str]


def spec_of(source: Path, budget: str, *, n_steps: int) -> RunSpec:
    """The run that a row's search was."""
    task = "token-classification" if source.name in TAGGED else "text-classification"
    return RunSpec(
        data=DataSpec(source=str(source)),
        task=TaskSpec(name=task, max_steps=n_steps, batch_size=BATCH_SIZE),
        budget=BudgetSpec(requested=budget),
    )


def loaded(source: Path) -> tuple[LabelledData, BaseModel]:
    """The rows of a set and the encoder with its head."""
    is_tagged = source.name in TAGGED
    data = load(DataSpec(source=str(source)), seed=0, read_rows=read_tokens if is_tagged else read_texts)
    auto_class = f"AutoModelFor{'Token' if is_tagged else 'Sequence'}Classification"
    return data, load_model(ModelSpec(), auto_class=auto_class, label_names=data.label_names)


def plan_of(row: Row, context: AllocationContext) -> Plan:
    """The plan of a row.

    Raises ValueError where the arm's plan has another size today.
    """
    learning_rate, size = float(row["learning_rate"]), int(row["params"])
    if row["arm"] == "head":
        return Plan(adapters=(), learning_rate=learning_rate, trainable_params=0)
    arms: dict[str, Policy] = dict(space.baseline_policies(context, learning_rate=1.0))
    arms |= {policy.arm.label: policy for policy in space.usual_policies(learning_rate=1.0)}
    policy = replace(arms[row["arm"].removeprefix("baseline: ")], learning_rate=learning_rate)
    plan = space.plan_of(policy, context)
    if plan.trainable_params != size:
        raise ValueError(
            f"{row['arm']} has {plan.trainable_params:,} parameters today, the row says {size:,}"
        )
    return plan


def rows_of(table: Path, name: str) -> list[Row]:
    """The rows of a set."""
    with table.open(encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if row["data"] == name]


class Trainer:
    """Trains the plans of one set, each once a seed."""

    def __init__(self, source: Path, *, n_steps: int) -> None:
        self.source, self.n_steps = source, n_steps
        self.data, self.base = loaded(source)
        self.contexts: dict[str, AllocationContext] = {}
        self.scores: dict[tuple[Plan, int], float] = {}

    def score(self, row: Row, seed: int) -> float:
        """The metric of a row's plan on the test file, after training with this seed."""
        budget = row["budget"]
        if budget not in self.contexts:
            self.contexts[budget] = context_of(spec_of(self.source, budget, n_steps=self.n_steps))
        plan = plan_of(row, self.contexts[budget])
        if (plan, seed) not in self.scores:
            run = Run(n_steps=self.n_steps, batch_size=BATCH_SIZE, seed=seed)
            predicted = predictions(plan, self.base, self.data, self.data.test, run)
            self.scores[plan, seed] = score(row["metric"], self.data, self.data.test, predicted)
        return self.scores[plan, seed]


def extend(table: Path, trainer: Trainer, seeds: Sequence[int]) -> None:
    """Append what the table lacks."""
    rows = rows_of(table, trainer.source.name)
    known = {(row["budget"], row["role"], row["seed"]) for row in rows}
    for seed in seeds:
        for row in {(row["budget"], row["role"]): row for row in rows}.values():
            if (row["budget"], row["role"], str(seed)) not in known:
                changed = {**row, "seed": str(seed), "score": f"{trainer.score(row, seed):.5f}"}
                append(table, GAIN_FIELDS, [changed[field] for field in GAIN_FIELDS])


def main() -> None:
    """Train what is missing, or one recorded row of each set again."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("table", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", required=True)
    parser.add_argument("--seeds", nargs="+", type=int, default=[104, 105])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--again", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    for name in given.sets:
        trainer = Trainer(given.data / name, n_steps=given.steps)
        if given.again:
            first = rows_of(given.table, name)[0]
            again = trainer.score(first, int(first["seed"]))
            print(
                name, first["budget"], first["arm"], first["seed"], first["score"], f"{again:.5f}", flush=True
            )
        else:
            extend(given.table, trainer, given.seeds)


if __name__ == "__main__":
    main()

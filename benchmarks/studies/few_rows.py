"""How long to train where rows are few: held-out scores of the first baseline by the steps of its full run.

    python benchmarks/studies/few_rows.py OUT.csv --data FOLDER [--rows 150 600] [--seeds 0 1]

So many rows of a set's train file are drawn, of which the search split is cut; 700 other rows of that file
are held out, and its test file is not read. LoRA is the first of the list (MiniLM-L6, 0.5 %, derived batch).
The shortest run of a set is three epochs. Rows that OUT.csv has are not measured again.
"""

from __future__ import annotations

import argparse
import csv
import random
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from race_gains import TAGS

from autopeft.setup.build import prepare
from autopeft.setup.feasible import fit_to_budget, requested_space
from autopeft.space import listed_policies, plan_of
from autopeft.types import BudgetSpec, DataSpec, RunSpec, SearchSpec, TaskSpec

SETS = ("snips_slots", "stsb", "snips_intent", "wnut17", "med")
HELD_OUT = 700
STEPS = (100, 200, 400)
FIELDS = "data rows seed train steps epochs held_out seconds".split()


def cut(source: Path, n_rows: int, seed: int, folder: Path) -> None:
    """Write `n_rows` of a set's train file, and 700 others as its validation file."""
    (file,) = source.glob("train.*")
    if file.suffix == ".csv":
        with file.open(newline="", encoding="utf-8") as read:
            head, *rows = csv.reader(read)
    else:
        head, rows = None, [[line] for line in file.read_text(encoding="utf-8").splitlines()]
    random.Random(seed).shuffle(rows)
    for part, some in (("train", rows[:n_rows]), ("validation", rows[n_rows : n_rows + HELD_OUT])):
        with (folder / f"{part}{file.suffix}").open("w", newline="", encoding="utf-8") as written:
            if head is not None:
                csv.writer(written).writerows([head, *some])
            else:
                written.writelines(f"{line}\n" for (line,) in some)


def measured(source: Path, n_rows: int, seed: int) -> Iterator[list[object]]:
    """Yield a row for each length."""
    with tempfile.TemporaryDirectory() as folder:
        cut(source, n_rows, seed, Path(folder))
        spec = RunSpec(
            data=DataSpec(source=folder),
            task=TaskSpec(name="token-classification" if source.name in TAGS else "text-classification"),
            budget=BudgetSpec(requested="0.5%"),
            search=SearchSpec(seed=seed),
        )
        prepared = prepare(spec)
        feasible, context = fit_to_budget(prepared.spec, prepared.base, requested_space(spec))
        full = prepared.lengths.full(seed=seed)
        first = listed_policies(feasible, prepared.task.defaults.family, context)
        plan = next(plan_of(policy, context) for arm, policy in first if arm.kind == "baseline")
        n_train, batch_size = len(prepared.bench.splits["train"].labels), prepared.bench.batch_size
        for steps in (3 * (n_train // batch_size), *STEPS):
            fidelity = replace(full, train_steps=steps, train_examples=steps * batch_size)
            run = replace(prepared.bench, full_steps=steps).measure(plan, fidelity)
            epochs = steps / (n_train // batch_size)
            yield [n_train, steps, f"{epochs:.1f}", f"{run.metric or 0:.4f}", f"{run.train_seconds:.0f}"]


def main() -> None:
    """Measure what the table does not have yet."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rows", type=int, nargs="+", default=[150, 600])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    given = parser.parse_args()
    torch.set_num_threads(1)
    done = set()
    if given.out.exists():
        with given.out.open(encoding="utf-8") as file:
            done = {(row["data"], row["rows"], row["seed"]) for row in csv.DictReader(file)}
    for seed, n_rows, name in ((s, n, d) for s in given.seeds for n in given.rows for d in SETS):
        if (name, str(n_rows), str(seed)) in done:
            continue
        rows = [[name, n_rows, seed, *row] for row in measured(given.data / name, n_rows, seed)]
        is_new = not given.out.exists()
        with given.out.open("a", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([FIELDS] * is_new + rows)


if __name__ == "__main__":
    main()

"""How fast should a new task head learn? Full runs of one LoRA at several head rates, on many datasets.

    python benchmarks/head_rate.py OUT.csv --data FOLDER [--sets NAME …] [--rows 400 2500] [--seeds 1 2]

MiniLM-L6, LoRA on q and v under a budget of 0.2 %, epochs and batch size as a search derives them. A row of
OUT.csv is a run. `n_rows` rows of the train file are given to a search. The adapter is judged on the
validation file and up to 1,000 train rows that are left over, which may choose a rate, and on the test file,
which may not. `move` is how far a step of AdamW at the head's rate moves an output (`autopeft.train.rates`).
Rows that OUT.csv holds are not measured again.
"""

from __future__ import annotations

import argparse
import csv
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from autopeft import train
from autopeft.records import BudgetSpec, DataSpec, Fidelity, OutputSpec, RunSpec, TaskSpec
from autopeft.run.prepare import prepare
from autopeft.run.search_problem import fit_to_budget, requested_space
from autopeft.space import Policy, plan_of

TAGS = ("snips_slots", "wnut17")
SETS = (
    *("cr", "mrpc", "mr", "subj", "trec50", "tweeteval_hate", "snips_slots", "banking77", "stsb", "med"),
    *("snips_intent", "wnut17"),
)
MOVES = (2.0, 0.5, 0.125)
MOST_JUDGED = 1000
FIELDS = (
    *("data", "n_rows", "seed", "move", "n_labels", "n_steps", "batch_size", "metric"),
    *("judged", "judged_loss", "test", "test_loss", "train_loss", "seconds"),
)


def read(path: Path) -> list[dict[str, Any]]:
    """Read the rows of a CSV or JSONL file."""
    with path.open(encoding="utf-8", newline="") as file:
        return [json.loads(line) for line in file] if path.suffix == ".jsonl" else list(csv.DictReader(file))


def splits_of(folder: Path, n_rows: int, seed: int) -> dict[str, list[dict[str, Any]]]:
    """Draw the rows to train on, those to judge on and those of the test file."""
    (ending,) = {path.suffix for path in folder.glob("train.*")}
    rows = read(folder / f"train{ending}")
    order = np.random.default_rng(seed).permutation(len(rows))
    judged = [rows[i] for i in order[n_rows : n_rows + MOST_JUDGED]] + read(folder / f"validation{ending}")
    return {
        "train": [rows[i] for i in order[:n_rows]],
        "validation": judged,
        "test": read(folder / f"test{ending}"),
    }


def runs_of(folder: Path, name: str, *, n_rows: int, seed: int, moves: list[float]) -> Any:
    """Yield a row of the table for each move."""
    splits = splits_of(folder / name, n_rows, seed)
    with tempfile.TemporaryDirectory() as scratch:
        scratch_path = Path(scratch)
        for split, rows in splits.items():
            text = "".join(json.dumps(row) + "\n" for row in rows)
            (scratch_path / f"{split}.jsonl").write_text(text, encoding="utf-8")
        spec = RunSpec(
            data=DataSpec(source=scratch),
            task=TaskSpec(name="token-classification" if name in TAGS else "text-classification"),
            budget=BudgetSpec(requested="0.2%"),
            output=OutputSpec(out=f"{scratch}/run"),
        )
        prepared = prepare(spec, keep_weights=lambda plan, seed: scratch_path / "weights")
        context = fit_to_budget(prepared.spec, prepared.base, requested_space(spec))[1]
        low, high = context.methods["lora"].learning_rate_range
        policy = Policy(method="lora", placement="q+v", learning_rate=low * (high / low) ** 0.38)
        plan, bench, usual = plan_of(policy, context), prepared.bench, prepared.bench.head_rates
        for move in moves:
            started, losses = time.perf_counter(), []
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
            last = losses[-max(1, len(losses) // 10) :]
            yield (
                *(
                    name,
                    n_rows,
                    seed,
                    f"{move:g}",
                    len(prepared.data.target.names or ()),
                    prepared.full_steps,
                ),
                *(bench.batch_size, prepared.task.metric, judged.metric, judged.loss, test.metric, test.loss),
                *(f"{np.mean(last):.4f}", f"{time.perf_counter() - started:.1f}"),
            )


def main() -> None:
    """Measure what the table lacks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", default=list(SETS))
    parser.add_argument("--rows", type=int, nargs="+", default=[400, 2500])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--moves", type=float, nargs="+", default=list(MOVES))
    options = parser.parse_args()
    torch.set_num_threads(1)
    measured = set()
    if options.out.exists():
        with options.out.open(encoding="utf-8", newline="") as file:
            measured = {(r["data"], r["n_rows"], r["seed"], r["move"]) for r in csv.DictReader(file)}
    for seed in options.seeds:
        for n_rows in options.rows:
            for name in options.sets:
                key = (name, str(n_rows), str(seed))
                moves = [move for move in options.moves if (*key, f"{move:g}") not in measured]
                if not moves:
                    continue
                for row in runs_of(options.data, name, n_rows=n_rows, seed=seed, moves=moves):
                    is_new = not options.out.exists()
                    with options.out.open("a", encoding="utf-8", newline="") as file:
                        csv.writer(file).writerows([FIELDS, row] if is_new else [row])
                    print(*row, flush=True)


if __name__ == "__main__":
    main()

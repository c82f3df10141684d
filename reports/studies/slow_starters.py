"""Full runs of a method at the middle of its learning rates, beside the winners of sweeps and searches.

    python reports/studies/slow_starters.py OUT.csv --data FOLDER --sets NAME ... [--method hira]
                                            [--budgets 0.1%] [--seeds 101 102] [--steps 300]
    python reports/studies/slow_starters.py OUT.csv

One plan for each set and budget, on all maps (of the last layers where the budget pays no more), trained by
`outside_loop.py` and measured on the test file, as rows of `sweep_gains.csv` were. Rows that OUT.csv holds
are not computed again. Without `--sets` it prints the table of differences on common seeds.
"""

from __future__ import annotations

import argparse
import csv
import statistics
from collections import defaultdict
from pathlib import Path

import torch
from more_seeds import loaded, spec_of
from outside_loop import Run, predictions, score
from real_gains import BATCH_SIZE, append, context_of

from autopeft import space
from autopeft.engine.rates import central
from autopeft.space import Policy

FIELDS = "data budget arm params learning_rate seed metric score".split()
RECORDED = Path(__file__).with_name("sweep_gains.csv")


def rows_of(table: Path) -> list[dict[str, str]]:
    """The rows of a table; none where there is no file."""
    if not table.exists():
        return []
    with table.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def measure(table: Path, source: Path, budget: str, given: argparse.Namespace) -> None:
    """Append the seeds of a set and a budget that the table lacks."""
    arm = f"{given.method}/all"
    known = {(row["data"], row["budget"], row["arm"], row["seed"]) for row in rows_of(table)}
    seeds = [seed for seed in given.seeds if (source.name, budget, arm, str(seed)) not in known]
    if not seeds:
        return
    data, base = loaded(source)
    context = context_of(spec_of(source, budget, n_steps=given.steps))
    (rate,) = central(*context.methods[given.method].learning_rate_range, 1)
    plan = space.plan_of(Policy(method=given.method, placement="all", learning_rate=rate), context)
    metric = next(row["metric"] for row in rows_of(RECORDED) if row["data"] == source.name)
    for seed in seeds:
        run = Run(n_steps=given.steps, batch_size=BATCH_SIZE, seed=seed)
        reached = score(metric, data, data.test, predictions(plan, base, data, data.test, run))
        row = (source.name, budget, arm, plan.trainable_params, f"{rate:.4g}", seed, metric, f"{reached:.5f}")
        append(table, FIELDS, row)


def summary(table: Path) -> str:
    """Points above the sweep's winner and above what a search handed over, on common seeds."""
    recorded = {
        (row["data"], row["budget"], row["role"], row["seed"]): float(row["score"])
        for row in rows_of(RECORDED)
    }
    gaps: dict[tuple[str, str, str], list[tuple[float, float, float]]] = defaultdict(list)
    for row in rows_of(table):
        sweep, best = (recorded[row["data"], row["budget"], role, row["seed"]] for role in ("sweep", "best"))
        gaps[row["arm"], row["budget"], row["data"]].append((float(row["score"]), sweep, best))
    lines = [
        "| arm | budget | set | seeds | its | sweep's winner | handed over |",
        "|---|---|---|---|---|---|---|",
    ]
    for (arm, budget, name), scores in sorted(gaps.items()):
        means = (f"{100 * statistics.fmean(column):.1f}" for column in zip(*scores, strict=True))
        lines.append(f"| {arm} | {budget} | {name} | {len(scores)} | {' | '.join(means)} |")
    return "\n".join(lines)


def main() -> None:
    """Train what is missing, or print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--sets", nargs="+", default=[])
    parser.add_argument("--method", default="hira")
    parser.add_argument("--budgets", nargs="+", default=["0.1%"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[101, 102])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    for budget in given.budgets:
        for name in given.sets:
            measure(given.out, given.data / name, budget, given)
    if not given.sets:
        print(summary(given.out))


if __name__ == "__main__":
    main()

"""Replays searches on the measured tables: how good the plan is that a policy hands over, and what it cost.

    python benchmarks/tabular/replay.py [--cells NAME …] [--policies NAME …] [--search "NAME: SETTINGS" …]
                                       [--seeds 10] [--workers 1] [--tables FOLDER] [--out FOLDER] [--list]

A policy is a search of autopeft under settings, run by its own engine without a model (`surrogate.py` says
what stands for its measurements), or a rule such as a learning-rate sweep. `--search "wide: trials=48
max_cost=4"` adds one.

Regret is the test metric of the best plan in the table, mean over the measured seeds, less that of the
weights that are handed over, in points (hundredths of the metric). The best plan is the best on confirm; `in
hindsight` it is the best on test itself, which chance favours. Costs are in R, finished weights included,
counted in steps and examples as the engine does, since seconds depend on what else the machine did. Full runs
of the tables have 60 to 200 steps; `R at 300` counts as if they had 300.

It prints a summary: intervals of 95 %, by a bootstrap over cells and over seeds within a cell; differences
are paired, from the first policy. `--out` keeps it as `replay.md`, beside `replay.csv` with a row for each
policy, cell and seed.
"""

from __future__ import annotations

import argparse
import csv
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from multiprocessing import get_context
from pathlib import Path

import description
import numpy as np
from competitors import competitors
from policies import Finder, Found, parsed, policies
from surrogate import Surrogate
from table import Results, TableError

from autopeft.errors import AutopeftError

HERE = Path(__file__).parent
FIELDS = (
    "policy cell seed arm learning_rate trainable_params test_metric regret regret_in_hindsight cost "
    "cost_at_300 measured_seconds n_measured verdict seconds error"
).split()
N_RESAMPLES, POINTS, LONG = 4000, 100, 300
Rows = list[dict[str, object]]


@cache
def surrogate_of(folder: Path) -> Surrogate:
    """The surrogate of a cell."""
    return Surrogate(Results.read(folder), description.read(folder))


@cache
def best_metrics(surrogate: Surrogate) -> tuple[float, float]:
    """Test metrics of the best plan by its mean on confirm, and of the best by its mean on test."""
    sign = surrogate.sign
    plans = list(surrogate.plans.values())
    confirm = [sign * surrogate.metric(plan, "confirm") for plan in plans]
    test = [surrogate.metric(plan, "test") for plan in plans]
    return test[int(np.argmax(confirm))], sign * max(sign * metric for metric in test)


def replayed(folder: Path, name: str, policy: Finder, seed: int) -> dict[str, object]:
    """The row of one policy in one cell with one seed; with an error where it found no plan."""
    surrogate, started = surrogate_of(folder), time.perf_counter()
    row: dict[str, object] = dict.fromkeys(FIELDS, "")
    row |= {"policy": name, "cell": folder.name, "seed": seed}
    try:
        found = policy(surrogate, seed)
        row |= _values(surrogate, found, seed)
    except (AutopeftError, TableError) as error:
        row["error"] = str(error)
    return row | {"seconds": round(time.perf_counter() - started, 3)}


def _values(surrogate: Surrogate, found: Found, seed: int) -> dict[str, object]:
    sign = surrogate.sign
    metric = surrogate.metric_of_weights(found.plan, "test", seed=seed)
    by_confirm, by_test = best_metrics(surrogate)
    return {
        "arm": surrogate.arm_of(found.plan).name,
        "learning_rate": f"{found.plan.learning_rate:.4g}",
        "trainable_params": found.plan.trainable_params,
        "test_metric": round(metric, 5),
        "regret": round(POINTS * sign * (by_confirm - metric), 3),
        "regret_in_hindsight": round(POINTS * sign * (by_test - metric), 3),
        "cost": round(found.bench.cost(), 3),
        "cost_at_300": round(found.bench.cost(full_steps=LONG), 3),
        "measured_seconds": round(found.bench.seconds, 1),
        "n_measured": len(found.bench.measured),
        "verdict": found.verdict,
    }


def known_policies() -> dict[str, Finder]:
    """Every policy that has a name."""
    return policies() | competitors()


def cell_rows(folder: Path, chosen: Mapping[str, str | None], n_seeds: int) -> Rows:
    """The rows of a cell; `chosen` maps policies to their settings, None for one with a name."""
    named = known_policies()
    made = {name: named[name] if text is None else parsed(text) for name, text in chosen.items()}
    return [replayed(folder, name, made[name], seed) for name in made for seed in range(n_seeds)]


def all_rows(
    folders: Sequence[Path], chosen: Mapping[str, str | None], *, n_seeds: int, workers: int
) -> Iterator[Rows]:
    """The rows of each cell, in the order of the cells."""
    if workers == 1:
        yield from (cell_rows(folder, chosen, n_seeds) for folder in folders)
        return
    with ProcessPoolExecutor(max_workers=workers, mp_context=get_context("spawn")) as pool:
        yield from pool.map(cell_rows, folders, [chosen] * len(folders), [n_seeds] * len(folders))


Grid = dict[str, dict[int, float]]  # cell -> seed -> value


def grid_of(rows: Rows, policy: str, field: str) -> Grid:
    """The values of one policy."""
    grid: Grid = {}
    for row in rows:
        if row["policy"] == policy and not row["error"]:
            grid.setdefault(str(row["cell"]), {})[int(str(row["seed"]))] = float(str(row[field]))
    return grid


def paired(first: Grid, second: Grid) -> Grid:
    """Second minus first, where both have a value."""
    shared = {cell: sorted({*first[cell]} & {*second.get(cell, {})}) for cell in first}
    return {
        cell: {seed: second[cell][seed] - first[cell][seed] for seed in seeds}
        for cell, seeds in shared.items()
        if seeds
    }


def mean_and_interval(grid: Grid, *, seed: int = 0) -> tuple[float, float, float]:
    """The mean over cells of their means over seeds, and its 95 % interval.

    Cells are drawn with replacement, and seeds within each drawn cell.

    Example:
        >>> mean_and_interval({"a": {0: 1.0, 1: 1.0}, "b": {0: 1.0}})
        (1.0, 1.0, 1.0)
    """
    rng, n_cells = np.random.default_rng(seed), len(grid)
    values = [np.array(list(by_seed.values())) for by_seed in grid.values()]
    # For each cell, means over drawn seeds (resamples, cells): one for each place that it may be drawn to.
    drawn = [of[rng.integers(len(of), size=(N_RESAMPLES, n_cells, len(of)))].mean(axis=2) for of in values]
    cells = rng.integers(n_cells, size=(1, N_RESAMPLES, n_cells))
    means = np.take_along_axis(np.stack(drawn), cells, axis=0)[0].mean(axis=1)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(np.mean([of.mean() for of in values])), float(low), float(high)


def summary(rows: Rows) -> str:
    """The tables of a replay in markdown: by policy, differences from the first policy, by cell."""
    names = list(dict.fromkeys(str(row["policy"]) for row in rows))
    cells = list(dict.fromkeys(str(row["cell"]) for row in rows))
    n_seeds = len({str(row["seed"]) for row in rows})
    lines = [f"{len(cells)} cells, {n_seeds} seeds; regret in points, costs in R. Less is better.", ""]
    lines += ["| policy | regret | 95 % | in hindsight | R | R at 300 | difference | 95 % | failed |"]
    lines += ["|---|---|---|---|---|---|---|---|---|"]
    for name in names:
        regret = grid_of(rows, name, "regret")
        n_failed = sum(row["policy"] == name and bool(row["error"]) for row in rows)
        if not regret:
            lines.append(f"| {name} |  |  |  |  |  |  |  | {n_failed} |")
            continue
        mean, low, high = mean_and_interval(regret)
        others = [_mean(grid_of(rows, name, f)) for f in ("regret_in_hindsight", "cost", "cost_at_300")]
        gaps = paired(grid_of(rows, names[0], "regret"), regret) if name != names[0] else {}
        gap, gap_low, gap_high = mean_and_interval(gaps) if gaps else (math.nan,) * 3
        difference = f"{gap:+.2f} | {gap_low:+.2f} to {gap_high:+.2f}" if gaps else " | "
        lines.append(
            f"| {name} | {mean:.2f} | {low:.2f} to {high:.2f} | {others[0]:.2f} | {others[1]:.2f} "
            f"| {others[2]:.2f} | {difference} | {n_failed} |"
        )
    lines += ["", f"| regret by cell | {' | '.join(cells)} |", "|---" * (1 + len(cells)) + "|"]
    for name in names:
        regret = grid_of(rows, name, "regret")
        means = [f"{np.mean([*regret[cell].values()]):.2f}" if cell in regret else "" for cell in cells]
        lines.append(f"| {name} | {' | '.join(means)} |")
    errors = dict.fromkeys(f"{row['policy']}, {row['cell']}: {row['error']}" for row in rows if row["error"])
    return "\n".join([*lines, *(["", *errors] if errors else [])]) + "\n"


def _mean(grid: Grid) -> float:
    return float(np.mean([np.mean([*by_seed.values()]) for by_seed in grid.values()]))


def main() -> None:
    """Read the arguments and replay."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tables", type=Path, default=HERE / "tables", help="the folder of the cells")
    parser.add_argument("--cells", nargs="*", help="cells, as folders; all that have rows and a description")
    parser.add_argument("--policies", nargs="*", metavar="NAME", help="policies by name; see --list")
    parser.add_argument("--search", action="append", default=[], metavar='"NAME: SETTINGS"')
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--workers", type=int, default=1, help="cells at the same time")
    parser.add_argument("--out", type=Path, help="the folder for replay.csv and replay.md")
    parser.add_argument("--list", action="store_true", help="print the named policies and end")
    given = parser.parse_args()
    known = known_policies()
    if given.list:
        print(*known, sep="\n")
        return
    if unknown := [name for name in given.policies or () if name not in known]:
        parser.error(f"there is no policy {unknown[0]!r}; the policies are {', '.join(known)}")
    texts = dict(text.split(":", 1) if ":" in text else (text, text) for text in given.search)
    chosen = {**dict.fromkeys(known if given.policies is None else given.policies), **texts}
    folders = [given.tables / name for name in given.cells] if given.cells else _measured(given.tables)
    rows: Rows = []
    for of_cell in all_rows(folders, chosen, n_seeds=given.seeds, workers=given.workers):
        rows += of_cell
    text = summary(rows)
    for folder in folders:
        surrogate = surrogate_of(folder)
        text += f"\n{folder.name}: {len(surrogate.plans)} of {surrogate.n_planned} plans are measured."
    print(text)
    if given.out is not None:
        given.out.mkdir(parents=True, exist_ok=True)
        (given.out / "replay.md").write_text(text + "\n", encoding="utf-8")
        with (given.out / "replay.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, FIELDS)
            writer.writeheader()
            writer.writerows(rows)


def _measured(tables: Path) -> list[Path]:
    folders = sorted(path.parent for path in tables.glob(f"*/{description.FILE}"))
    return [folder for folder in folders if (folder / "trials.csv").exists()]


if __name__ == "__main__":
    main()

"""What twice the steps would bring: a forecast from two lengths of one plan, against what was measured.

    python benchmarks/tabular/forecast.py [--tables FOLDER] [--curves CURVES.jsonl]

An error e (1 minus the metric, or a loss) falls as a power of the steps, so that from the lengths s < n

    e(2 n) = e(n) (e(n) / e(s)) ** (damping · log 2 / log(n / s)),

and stays where it did not fall. Rows that were measured at three lengths: rungs of the tables on the search
rows (30, 75 and 140 steps), HiRA on the test files of five sets (75, 150 and 300 steps), and with `--curves`
losses of published runs of a language model, which have not decayed. With curves it also prints the regret of
a short rung in such runs, in points of the final accuracy: of some runs at random the best by loss after so
many steps go on, and the best of these in full is kept.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from race import SIX
from replay import HERE, POINTS, surrogate_of

DAMPINGS = (0.0, 0.5, 0.75, 1.0)
WINDOW, N_DRAWS = 250, 4000
CURVES = ((250, 1250, 2500), (500, 1250, 2500), (500, 2500, 5000), (1250, 2500, 5000))
Lengths = tuple[int, int, int]
Row = tuple[float, float, float]  # the error at three lengths


def forecast(short: float, long: float, lengths: Lengths, *, damping: float) -> float:
    """The error at the third length from those at the first two; never above that at the second.

    Example:
        >>> round(forecast(0.4, 0.2, (75, 150, 300), damping=1.0), 3)
        0.1
    """
    if not 0 < long < short:
        return long
    first, second, third = lengths
    slope = math.log(long / short) / math.log(second / first)
    return long * math.exp(damping * slope * math.log(third / second))


def of_tables(tables: Path) -> list[Row]:
    """Errors of the plans of the six cells on the search rows, at their three rungs."""
    rows = []
    for surrogate in (surrogate_of(tables / cell) for cell in SIX):
        curves = [curve for arm in surrogate.arms.values() if arm.adapters for curve in arm.curves]
        for curve in curves:
            points = [point for _, point in curve.lengths[:3]]
            if all(point.loss is not None for point in points):
                first, second, third = (1 - float(point.scores.mean()) for point in points)
                rows.append((first, second, third))
    return rows


def of_hira(studies: Path) -> list[Row]:
    """Errors of HiRA on the test files of five sets, after 75, 150 and 300 steps."""
    errors: dict[tuple[str, int], float] = {}
    for name in ("slow_starters_by_length.csv", "slow_starters.csv"):
        for row in csv.DictReader((studies / name).open(encoding="utf-8")):
            if row["arm"] == "hira/all" and row["seed"] == "101":
                errors[row["data"], int(row.get("steps") or 300)] = 1 - float(row["score"])
    sets = sorted(data for data, steps in errors if steps == 75)
    return [(errors[data, 75], errors[data, 150], errors[data, 300]) for data in sets]


def described(name: str, rows: Sequence[Row], lengths: Lengths) -> str:
    """The mean absolute error and the bias at each damping, in hundredths."""
    cells = []
    for damping in DAMPINGS:
        gaps = [POINTS * (forecast(a, b, lengths, damping=damping) - measured) for a, b, measured in rows]
        cells.append(f"{np.mean(np.abs(gaps)):.1f} ({np.mean(gaps):+.1f})")
    return f"| {name} | {lengths[0]}, {lengths[1]} → {lengths[2]} | {len(rows)} | {' | '.join(cells)} |"


def rung_regret(losses: np.ndarray, accuracies: np.ndarray, *, n_plans: int, steps: int, kept: int) -> float:
    """Regret of a rung in published runs (plans, windows), mean over draws."""
    rng, regrets = np.random.default_rng(0), []
    at = losses[:, steps // WINDOW - 1]
    for _ in range(N_DRAWS):
        drawn = rng.choice(len(at), n_plans, replace=False)
        best = accuracies[drawn[np.argsort(at[drawn])[:kept]]].max()
        regrets.append(POINTS * (accuracies[drawn].max() - best))
    return float(np.mean(regrets))


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tables", type=Path, default=HERE / "tables")
    parser.add_argument("--curves", type=Path)
    given = parser.parse_args()
    print(f"| rows | steps | n | {' | '.join(f'damping {d}' for d in DAMPINGS)} |")
    print(f"|---|---|---:|{'---:|' * len(DAMPINGS)}")
    print(described("tables, all plans", of_tables(given.tables), (30, 75, 140)))
    print(described("HiRA, five sets", of_hira(HERE.parent / "studies"), (75, 150, 300)))
    if given.curves is None:
        return
    runs = [json.loads(line) for line in given.curves.read_text(encoding="utf-8").splitlines()]
    runs = [run for run in runs if run["test_accuracy"] > 0.4]
    losses = np.array([[window["train_loss"] for window in run["curve"]] for run in runs])
    for lengths in CURVES:
        first, second, third = (losses[:, steps // WINDOW - 1].tolist() for steps in lengths)
        print(described("published losses", list(zip(first, second, third, strict=True)), lengths))
    accuracies = np.array([run["test_accuracy"] for run in runs])
    print("\n| plans | steps | one in full | two | three |\n|---:|---:|---:|---:|---:|")
    for n_plans in (4, 8):
        for steps in (250, 500, 1000):
            regrets = [
                rung_regret(losses, accuracies, n_plans=n_plans, steps=steps, kept=k) for k in (1, 2, 3)
            ]
            print(f"| {n_plans} | {steps} | {' | '.join(f'{regret:.2f}' for regret in regrets)} |")


if __name__ == "__main__":
    main()

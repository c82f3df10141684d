"""Whether a loss extrapolated to the full length ranks plans better than the loss of a rung itself.

    python reports/benchmark/extrapolation.py [--tables FOLDER] [--cells NAME …] [--curves CURVES.jsonl]

The logarithm of the loss goes on by a share of its slope between the last two rungs, in the logarithm of the
steps, up to the full length: share 0 is the loss of the rung. Ten plans are drawn at random; the one of the
lowest loss is chosen. Regret is the best of the ten in full minus that one, in points of the metric (mean of
confirm and test). `--curves` is the file of published curves that `replay_rungs.py` of commit a7a790e4 reads:
the same on runs of a language model, in points of their final accuracy.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from replay import HERE, surrogate_of
from scipy.stats import spearmanr

SHARES = (0.0, 0.1, 0.2, 0.3, 0.5)
N_PLANS, N_DRAWS = 10, 3000
WINDOW = 250  # steps, of a published curve
PAIRS = ((250, 500), (500, 1000), (1000, 2000))
Row = tuple[str, np.ndarray, np.ndarray, np.ndarray, tuple[int, int, int]]


def of_cell(folder: Path) -> Iterator[Row]:
    """Losses at two neighbouring rungs, qualities and lengths, for each rung above the first of a cell."""
    surrogate = surrogate_of(folder)
    losses, qualities = [], []
    for (name, _), plan in surrogate.plans.items():
        curves = {curve.learning_rate: curve for curve in surrogate.arms[name].curves}
        by_length = [point.loss for _, point in curves[plan.learning_rate].lengths]
        if plan.adapters and None not in by_length:
            losses.append(by_length)
            metrics = [surrogate.metric(plan, split) for split in ("confirm", "test")]
            qualities.append(surrogate.sign * sum(metrics) / 2)
    table, cell = np.array(losses, dtype=float), surrogate.description.cell
    for index in range(1, len(cell.rungs)):
        lengths = (cell.rungs[index - 1], cell.rungs[index], cell.full)
        yield folder.name, table[:, index - 1], table[:, index], np.array(qualities), lengths


def of_curves(path: Path) -> Iterator[Row]:
    """The same of published curves."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    losses = np.array([[window["train_loss"] for window in row["curve"]] for row in rows])
    accuracies = np.array([row["test_accuracy"] for row in rows])
    for before, at in PAIRS:
        lengths = (before, at, WINDOW * losses.shape[1])
        yield "published", losses[:, before // WINDOW - 1], losses[:, at // WINDOW - 1], accuracies, lengths


def extrapolated(
    before: np.ndarray, at: np.ndarray, lengths: tuple[int, int, int], *, share: float
) -> np.ndarray:
    """The logarithm of the loss at the full length, by a share of the last slope.

    Example:
        >>> loss = np.exp(extrapolated(np.array([4.0]), np.array([2.0]), (10, 20, 40), share=1.0))
        >>> round(float(loss[0]), 6)  # halved with each doubling of the length
        1.0
    """
    first, last, full = map(math.log, lengths)
    slope = (np.log(at) - np.log(before)) / (last - first)
    return np.log(at) + share * slope * (full - last)


def regret(predicted: np.ndarray, qualities: np.ndarray) -> float:
    """Mean regret in points of the choice among some plans."""
    rng = np.random.default_rng(0)
    draws = [rng.choice(len(predicted), min(N_PLANS, len(predicted)), replace=False) for _ in range(N_DRAWS)]
    return 100 * float(np.mean([qualities[d].max() - qualities[d[predicted[d].argmin()]] for d in draws]))


def table(rows: Sequence[Row]) -> str:
    """Regret, and Spearman's rho with the quality, by share."""
    lines = [f"| runs | steps of full | {' | '.join(f'{share:g}' for share in SHARES)} |"]
    lines += ["|---" * (2 + len(SHARES)) + "|"]
    for name, before, at, qualities, lengths in rows:
        entries = []
        for share in SHARES:
            predicted = extrapolated(before, at, lengths, share=share)
            rho = float(spearmanr(-predicted, qualities).statistic)
            entries.append(f"{regret(predicted, qualities):.2f} ({rho:.2f})")
        lines.append(f"| {name} | {lengths[1]:,} of {lengths[2]:,} | {' | '.join(entries)} |")
    return "\n".join(lines)


def main() -> None:
    """Read the arguments and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tables", type=Path, default=HERE / "tables")
    parser.add_argument("--cells", nargs="*", default=[])
    parser.add_argument("--curves", type=Path)
    given = parser.parse_args()
    rows = [row for name in given.cells for row in of_cell(given.tables / name)]
    rows += of_curves(given.curves) if given.curves else []
    print(
        f"Regret in points (Spearman's rho), by the share of the slope; {N_DRAWS:,} draws of {N_PLANS} plans"
    )
    print(table(rows))


if __name__ == "__main__":
    main()

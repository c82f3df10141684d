"""Measure how often the verdict on one seed is right, on recorded and on simulated runs.

    python benchmarks/studies/verdict_calibration.py [tables] [gains] [returned] [simulated] [--runs 4000]

`tables`: the 20 best plans of each cell of the benchmark, all pairs of them. What one seed says on the
confirm rows is held against what the other seed says on the test rows. `gains`: how much seeds move the
difference of two plans in full runs of 300 steps (`sweep_gains.csv`). `returned`: what a challenger brings
that is returned from a lead of so many standard errors on. `simulated`: equal plans.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import optimize, stats

from autopeft.statistics import SEED_ROWS, Examples, paired_difference

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tabular"))
from table import Results  # noqa: E402 - a script beside this one

Floats = npt.NDArray[np.float64]
CELLS = "clinc-0.1 digits-1 med-0.2 poem-0.05 slots-0.1 uci-0.02".split()
N_BEST, FULL_STEPS, Z = 20, 200, 1.96
STEP = Examples(step=1.0)
CHOICES = (200, 250, 300, 400, 500, 700, 1000)  # of SEED_ROWS
# Rows of the test files, and the variance of a row's difference in multiples of p (1 - p): 0.8 and 0.23 are
# those of clinc-0.1 and slots-0.1. Pairs of seeds differ by 0.8 of it on the same rows there.
GAINS = {"banking77": (3080, 0.8), "med": (1072, 0.8), "snips_intent": (700, 0.8), "snips_slots": (700, 0.23)}
RESIDUAL = 0.8


def scores_of(cell: str, split: str, plan: tuple[str, float], results: Results) -> Floats:
    """Read the scores (2, N) of a plan in full, one row for each seed.

    poem-0.05: a plan that guesses the class `mixed`, which no row has, gets the mean F1 of four classes
    instead of three, at most 0.75. These runs are scored on the three classes; they are known by their mean
    and spread (checked by rebuilding the guesses from the scores).
    """
    runs = results.full(*plan, split=split, steps=FULL_STEPS)
    table = np.array([run.scores for run in runs], dtype=np.float64)
    if cell == "poem-0.05":
        has_fourth_class = (table.mean(axis=1) < 0.63) & (table.std(axis=1) < 0.5)
        table[has_fourth_class] *= 4 / 3
    return table


def best_plans(cell: str) -> list[tuple[Floats, Floats]]:
    """Read the scores on confirm and test, each (2, N), of the 20 plans that are best on confirm."""
    results = Results.read(HERE.parent / "tabular" / "tables" / cell)
    twice = sorted({(row.arm, row.position) for row in results.rows.values() if row.seed == 102})
    plans = [tuple(scores_of(cell, split, plan, results) for split in ("confirm", "test")) for plan in twice]
    return sorted(plans, key=lambda plan: -plan[0].mean())[:N_BEST]  # type: ignore[return-value]


class Pair:
    """One seed of two plans on confirm, against the other seed on test."""

    def __init__(self, confirm: Floats, test: Floats) -> None:
        """Take the differences (N,) of the scores."""
        self.mean, self.error = self._of(confirm)
        self.other_mean, self.other_error = self._of(test)
        self.n, self.n_other = len(confirm), len(test)

    @staticmethod
    def _of(rows: Floats) -> tuple[float, float]:
        """Compute mean and standard error over rows alone, pseudo-rows included."""
        zero = np.zeros((1, len(rows)))
        said = paired_difference(rows[None], zero, span=None, examples=STEP)
        return said.mean, said.std_error / math.sqrt(1 + len(rows) / SEED_ROWS)

    def claim(self, seed_rows: float) -> int:
        """Return 1 if the first seed says better, -1 for worse, 0 if the interval includes 0."""
        half = stats.t.isf(0.025, self.n - 1) * self.error * math.sqrt(1 + self.n / seed_rows)
        return int(np.sign(self.mean)) if abs(self.mean) > half else 0

    def is_contradicted(self, seed_rows: float) -> bool:
        """Check whether the other seed has the other plan ahead on its rows."""
        return self.claim(seed_rows) * self.other_mean < 0

    def deviation(self, seed_rows: float) -> float:
        """Compute how far the two seeds are apart, in standard errors of both."""
        first = self.error * math.sqrt(1 + self.n / seed_rows)
        second = self.other_error * math.sqrt(1 + self.n_other / seed_rows)
        return (self.mean - self.other_mean) / math.hypot(first, second)


def pairs_of(plans: Sequence[tuple[Floats, Floats]]) -> Iterator[Pair]:
    """Yield all pairs of plans, with either seed on confirm."""
    for (a, a_test), (b, b_test) in itertools.combinations(plans, 2):
        for seed in (0, 1):
            yield Pair((a - b)[seed], (a_test - b_test)[1 - seed])


def seed_share(plans: Sequence[tuple[Floats, Floats]]) -> float:
    """Estimate the variance between seeds in multiples of that between rows; may be < 0.

    A seed moves a difference alike on confirm and on test, whose rows are independent. So the product of both
    moves has the variance between seeds as its mean.
    """
    between, rows = [], []
    for (a, a_test), (b, b_test) in itertools.combinations(plans, 2):
        moves = [(table[0] - table[1]).mean() for table in (a - b, a_test - b_test)]
        between.append(moves[0] * moves[1] / 2)
        rows.append((a - b).var(axis=1, ddof=1).mean())
    return float(np.mean(between) / np.mean(rows))


def in_rows(share: float) -> str:
    """Format a share of `seed_share` as a number of rows; "none" where rows alone explain what was seen."""
    return f"{1 / share:,.0f}" if share > 0 else "none"


def rows_needed(shares: Sequence[float], n: int = 500) -> float:
    """Find SEED_ROWS with which equal plans are called better in 2.5 % of cases on average."""
    spread = np.sqrt(1 + n * np.maximum(shares, 0.0))

    def error(factor: float) -> float:
        return float(stats.norm.sf(Z * factor / spread).mean()) - 0.025

    return float(n / (optimize.brentq(error, 0.5, 10.0) ** 2 - 1))


def contradicted(pairs: Sequence[Pair], seed_rows: float) -> tuple[int, int]:
    """Count the contradicted claims, and all claims."""
    claims = [pair for pair in pairs if pair.claim(seed_rows)]
    return sum(pair.is_contradicted(seed_rows) for pair in claims), len(claims)


def largest_choice(pairs: Sequence[Pair]) -> int:
    """Find the largest SEED_ROWS with at most 5 % of claims contradicted; 0 if there is none."""
    rates = {rows: contradicted(pairs, rows) for rows in CHOICES}
    return max((rows for rows, (wrong, n) in rates.items() if wrong <= 0.05 * n), default=0)


def tables() -> None:
    """Print what recorded runs need, and the results of the chosen number."""
    print(
        "| cell | rows, confirm and test | factor needed | seeds, points | SEED_ROWS | contradicted "
        "| 95 % holds | same plan better | half width |\n" + "|---" * 9 + "|"
    )
    plans = {cell: best_plans(cell) for cell in CELLS}
    pairs = {cell: list(pairs_of(plans[cell])) for cell in CELLS}
    shares = {cell: seed_share(plans[cell]) for cell in CELLS}
    for cell in CELLS:
        each, first = pairs[cell], pairs[cell][0]
        factor = math.sqrt(np.mean([pair.deviation(math.inf) ** 2 for pair in each]))
        wrong, n_claims = contradicted(each, SEED_ROWS)
        holds = np.mean([abs(pair.deviation(SEED_ROWS)) <= Z for pair in each])
        between = [
            paired_difference(table[[i]], table[[1 - i]], span=None, examples=STEP).low > 0
            for plan in plans[cell]
            for table in plan
            for i in (0, 1)
        ]
        half = np.median([pair.error for pair in each]) * Z * math.sqrt(1 + first.n / SEED_ROWS)
        moved = np.median([pair.error for pair in each]) * math.sqrt(first.n * max(shares[cell], 0.0))
        print(
            f"| {cell} | {first.n}, {first.n_other} | {factor:.2f} | {100 * moved:.1f} | "
            f"{in_rows(shares[cell])} | {wrong} of {n_claims} | {100 * holds:.1f} | "
            f"{100 * np.mean(between):.1f} | {100 * half:.1f} |"
        )
    print("\n| SEED_ROWS | contradicted | 95 % holds |\n|---|---|---|")
    for rows in CHOICES:
        wrong, n_claims = (sum(n) for n in zip(*(contradicted(pairs[c], rows) for c in CELLS), strict=True))
        holds = np.mean([np.mean([abs(p.deviation(rows)) <= Z for p in pairs[cell]]) for cell in CELLS])
        print(f"| {rows} | {wrong} of {n_claims} ({100 * wrong / n_claims:.1f} %) | {100 * holds:.1f} |")
    print("\n| without | 2.5 % on average | 5 % contradicted |\n|---|---|---|")
    for left_out in ("", *CELLS):
        kept = [cell for cell in CELLS if cell != left_out]
        needed = rows_needed([shares[cell] for cell in kept])
        largest = largest_choice([pair for cell in kept for pair in pairs[cell]])
        print(f"| {left_out or 'none'} | {needed:.0f} | {largest} |")


def gains() -> None:
    """Print what seeds change in the gain over the sweep, on sets whose variance of rows is roughly known."""
    by_seed: dict[tuple[str, str], dict[str, dict[str, float]]] = {}
    with (HERE / "sweep_gains.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            roles = by_seed.setdefault((row["data"], row["budget"]), {})
            roles.setdefault(row["role"], {})[row["seed"]] = float(row["score"])
    print("| set | budget | deviation over seeds, points | SEED_ROWS |\n|---|---|---|---|")
    shares = []
    for (data, budget), roles in by_seed.items():
        if data not in GAINS:
            continue
        n, of_rows = GAINS[data]
        both = [(roles["best"][seed], roles["sweep"][seed]) for seed in roles["best"]]
        moves, level = np.array([best - sweep for best, sweep in both]), np.mean(both)
        rows = of_rows * level * (1 - level)
        shares.append(float((moves.var(ddof=1) - RESIDUAL * rows / n) / rows))
        print(f"| {data} | {budget} | {100 * moves.std(ddof=1):.1f} | {in_rows(shares[-1])} |")
    print(f"\nSEED_ROWS for 2.5 % on average: {rows_needed(shares):.0f}")


def returned() -> None:
    """Print what the other seed brings on test if a lead of so many standard errors returns a challenger."""
    found = []
    for cell in (*CELLS, "uci-0.5"):
        for (a, a_test), (b, b_test) in itertools.permutations(best_plans(cell), 2):
            for seed in (0, 1):
                said = paired_difference(a[[seed]], b[[seed]], span=None, examples=STEP)
                lead = said.mean / said.std_error if said.std_error else 0.0
                found.append((lead, (a_test - b_test)[1 - seed].mean()))
    leads, gains = np.array(found).T
    print("| lead | returned, % | behind, % | gain of all pairs, points |\n|---|---|---|---|")
    for least in (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0):
        chosen = (leads >= least) & (leads > 0)
        behind = np.mean(gains[chosen] < 0)
        gain = 100 * np.mean(np.where(chosen, gains, 0.0))
        print(f"| {least:g} | {100 * chosen.mean():.0f} | {100 * behind:.0f} | {gain:.2f} |")


def drawn(rng: np.random.Generator, *, n_plans: int, shape: tuple[int, int], share: float) -> Floats:
    """Draw 0/1 scores (n_plans, S, N) of plans of accuracy 0.85; `share` as in `seed_share`."""
    n_seeds, n = shape
    disagreement = 0.131  # of two plans with the effects below, counted in a simulation
    spread = math.sqrt(share * disagreement / 2) / stats.norm.pdf(stats.norm.ppf(0.85))
    level = stats.norm.ppf(0.85) * math.sqrt(1 + spread**2)
    rows = math.sqrt(0.75) * rng.standard_normal(n) + math.sqrt(0.05) * rng.standard_normal((n_plans, 1, n))
    runs = math.sqrt(0.2) * rng.standard_normal((n_plans, n_seeds, n))
    scores = level + rows + runs + spread * rng.standard_normal((n_plans, n_seeds, 1)) > 0
    return np.asarray(scores, dtype=np.float64)


def simulated(n_runs: int) -> None:
    """Print how often equal plans are called better and the interval holds 0, in percent.

    A column is how much seeds move the plans: as much as a draw of so many rows.
    """
    worlds = (math.inf, 1500, 680, 400, 200)
    print("| challengers | seeds | rows | " + " | ".join(f"{w:g}" for w in worlds) + " | half width |")
    print("|" + "---|" * (4 + len(worlds)))
    for n_challengers, n_seeds in ((1, 1), (2, 1), (3, 1), (1, 2), (1, 3), (1, 5)):
        for n in (100, 500, 2000):
            cells, halves = [], []
            for world in worlds:
                rng, said = np.random.default_rng([n_challengers, n_seeds, n]), []
                for _ in range(n_runs):
                    plans = drawn(rng, n_plans=1 + n_challengers, shape=(n_seeds, n), share=1 / world)
                    challenger = max(plans[1:], key=np.mean)
                    said.append(
                        paired_difference(challenger, plans[0], span=1.0, n_challengers=n_challengers)
                    )
                better = np.mean([each.low > 0 for each in said])
                holds = np.mean([each.low <= 0 <= each.high for each in said])
                cells.append(f"{100 * better:.1f}, {100 * holds:.1f}")
                halves.append(np.median([each.high - each.low for each in said]) / 2)
            print(
                f"| {n_challengers} | {n_seeds} | {n} | "
                + " | ".join(cells)
                + f" | {100 * np.mean(halves):.1f} |",
                flush=True,
            )


def main() -> None:
    """Print the tables that were asked for."""
    parts = {"tables": tables, "gains": gains, "returned": returned}
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("parts", nargs="*", default=[*parts, "simulated"])
    parser.add_argument("--runs", type=int, default=4000, help="simulated comparisons for each entry")
    asked = parser.parse_args()
    for name in asked.parts:
        print(f"\n### {name}\n", flush=True)
        parts[name]() if name in parts else simulated(asked.runs)


if __name__ == "__main__":
    main()

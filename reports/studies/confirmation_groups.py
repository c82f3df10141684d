"""How often a verdict on rows in groups is right, counted as independent rows and as groups.

    python reports/studies/confirmation_groups.py [RUNS]

Each row summarises RUNS (2,000, a multiple of 100) simulated confirmations of two equal plans on at most
five seeds. A share `within` of what makes a row hard, for both plans, for one and for one run, is common to
the rows of a group. Groups have `size` rows, all of them or in the mean of log-normal sizes (`uneven`).
Columns in pairs, rows and then groups: how often `better` is said, how often the 95 % interval covers the
truth, and its median half-width in points.

The second table has two plans of 90 % accuracy that differ by the margin: one of them fails on rows that
the other one has right. All failures have a correlation `within` groups (beta-binomial distributions), and
all seeds are alike. It gives how often `equivalent` is said, of which 5 % are allowed, and how often it is
said of two equal plans that each fail on half as many rows of their own.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from confirmation_calibration import covered
from scipy import stats

from autopeft.evidence.bounds import BETTER, EQUIVALENT, Design
from autopeft.evidence.sequential import Stops, find_stops
from autopeft.evidence.variance import moments

Array = npt.NDArray[np.float64]
Groups = npt.NDArray[np.int64]
CHUNK, SEEDS, LEVEL, SEED_SD = 100, 5, 0.85, 0.006
COMMON, OF_PLAN, RESIDUAL = 0.6, 0.2, 0.2  # shares of what makes a row hard, more of one plan than elsewhere
ROWS, SIZES, WITHIN = (300, 1000), (5, 20), (0.1, 0.3, 0.5)


def grouped(rng: np.random.Generator, n_rows: int, size: int, *, is_uneven: bool) -> Groups:
    """The group of each row."""
    n_groups = n_rows // size
    if not is_uneven:
        return np.repeat(np.arange(n_groups), size)
    weights = rng.lognormal(0.0, 1.0, n_groups)
    return np.sort(rng.choice(n_groups, n_rows, p=weights / weights.sum()))


def scores(rng: np.random.Generator, groups: Groups, within: float, *, is_binary: bool) -> Array:
    """Scores (2, CHUNK, S, N) of two equal plans: of 0 and 1, or without bounds."""

    def effects(*shape: int) -> Array:
        common = rng.standard_normal((*shape, groups.max() + 1), dtype=np.float32)[..., groups]
        own = rng.standard_normal((*shape, len(groups)), dtype=np.float32)
        return np.asarray(np.sqrt(within) * common + np.sqrt(1 - within) * own)

    rows = np.sqrt(COMMON) * effects(CHUNK, 1) + np.sqrt(OF_PLAN) * effects(2, CHUNK, 1)
    rows = rows + np.sqrt(RESIDUAL) * effects(2, CHUNK, SEEDS)
    seeds = rng.standard_normal((2, CHUNK, SEEDS, 1))
    if not is_binary:
        return np.asarray(3 * SEED_SD * seeds + 0.3 * rows)
    spread = SEED_SD / stats.norm.pdf(stats.norm.ppf(LEVEL))
    middle = stats.norm.ppf(LEVEL) * np.sqrt(1 + spread**2)
    return np.asarray(middle + spread * seeds + rows > 0, dtype=np.float64)


def judged(tables: Array, groups: Sequence[int], design: Design) -> Stops:
    """Where some confirmations stop; `tables` are as `scores` gives them."""
    plans = [moments(table, groups) for table in tables]
    return find_stops(moments(tables[0] - tables[1], groups), design, plans=plans)


def equal_plans(n_runs: int) -> None:
    """Print the first table."""
    print(
        "| scores | rows | size | sizes | within | better % | groups "
        "| covers % | groups | half-width | groups |\n" + "|---" * 11 + "|"
    )
    for is_binary, n_rows, size, is_uneven, within in itertools.product(
        (True, False), ROWS, SIZES, (False, True), WITHIN
    ):
        rng = np.random.default_rng(0)
        design = Design(planned_seeds=SEEDS, margin=0.01, span=1.0 if is_binary else None)
        seen: tuple[list[Stops], list[Stops]] = ([], [])
        for _ in range(n_runs // CHUNK):
            groups = grouped(rng, n_rows, size, is_uneven=is_uneven)
            tables = scores(rng, groups, within, is_binary=is_binary)
            for stops, counted in zip(seen, ([], groups.tolist()), strict=True):
                stops.append(judged(tables, counted, design))
        codes, lows, highs = (
            [np.concatenate([getattr(stop, name) for stop in stops]) for stops in seen]
            for name in ("code", "low", "high")
        )
        cells = ["0/1" if is_binary else "normal", str(n_rows), str(size)]
        cells += ["uneven" if is_uneven else "equal", f"{within:g}"]
        cells += [f"{100 * np.mean(code == BETTER):.1f}" for code in codes]
        cells += [f"{covered(low, high, 0.0):.1f}" for low, high in zip(lows, highs, strict=True)]
        cells += [f"{50 * np.median(high - low):.1f}" for low, high in zip(lows, highs, strict=True)]
        print("| " + " | ".join(cells) + " |", flush=True)


def failures(rng: np.random.Generator, groups: Groups, share: float, within: float, n_runs: int) -> Array:
    """1 where a row fails, else 0, shape (runs, N)."""
    alike = 1 / within - 1
    chances = rng.beta(share * alike, (1 - share) * alike, (n_runs, groups.max() + 1))[:, groups]
    return np.asarray(rng.random(chances.shape) < chances, dtype=np.float64)


def plans_a_margin_apart(n_runs: int) -> None:
    """Print the second table."""
    print(
        "\n| margin | rows | size | within | equivalent % | groups | of equal plans | groups |\n"
        + "|---" * 8
        + "|"
    )
    for margin, n_rows, size, within in itertools.product((0.01, 0.02), ROWS, SIZES, (0.02, *WITHIN)):
        rng = np.random.default_rng(1)
        groups = grouped(rng, n_rows, size, is_uneven=False)
        both, shares = failures(rng, groups, 0.1, within, n_runs), []
        for own in ((margin / 0.9, 1e-9), (margin / 1.8, margin / 1.8)):
            wrong = [np.maximum(both, failures(rng, groups, share, within, n_runs)) for share in own]
            tables = np.stack([np.repeat(1 - each[:, None], 2, axis=1) for each in wrong])
            design = Design(planned_seeds=2, margin=margin)
            seen = [judged(tables, counted, design) for counted in ([], groups.tolist())]
            shares += [f"{100 * np.mean(stops.code == EQUIVALENT):.1f}" for stops in seen]
        print(
            "| " + " | ".join([f"{margin:g}", str(n_rows), str(size), f"{within:g}", *shares]) + " |",
            flush=True,
        )


if __name__ == "__main__":
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    equal_plans(runs)
    plans_a_margin_apart(runs)

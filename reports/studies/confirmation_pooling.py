"""How often a verdict on few seeds is right, with the seeds' variance pooled over plans and without.

    python reports/studies/confirmation_pooling.py [RUNS]

Each row summarises RUNS (10,000, a multiple of 500) simulated confirmations of two plans, beside which
further plans ran on the same seeds. `ratio` is how much more a seed moves the best plan than the others: 1
for alike plans, above 1 for a plan near the cliff of its learning rate. `gain` is in standard deviations of
the seeds of an ordinary plan. Columns: how often `better` is said, and how often the 95 % interval covers
the truth, without and with pooling; the median half-width in points.
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from confirmation_calibration import CHUNK, COMMON, OF_PLAN, RESIDUAL, SAME_ORDER, covered
from scipy import stats

from autopeft.evidence.bounds import BETTER, EQUIVALENT, Design
from autopeft.evidence.sequential import Stops, find_stops
from autopeft.evidence.variance import moments

Array = npt.NDArray[np.float32]
LEVEL, MARGIN, POINTS = 0.85, 0.01, 100


@dataclass(frozen=True, kw_only=True)
class Case:
    """Accuracies around 0.85 of `n_plans` plans on `n_seeds` common seeds and `n_examples` examples."""

    n_plans: int
    n_seeds: int
    n_examples: int
    seed_sd: float = 0.015
    ratio: float = 1.0
    gain: float = 0.0


def scores(case: Case, rng: np.random.Generator) -> Array:
    """0/1 scores (K, runs, S, N): the first plan is the best, the second the baseline."""

    def draw(*shape: int) -> Array:
        return rng.standard_normal(shape, dtype=np.float32)

    n, seeds = case.n_examples, (CHUNK, case.n_seeds, 1)
    separate = draw(case.n_plans, *seeds)
    moved = np.sqrt(SAME_ORDER) * draw(*seeds) + np.sqrt(1 - SAME_ORDER) * separate
    sds = case.seed_sd * np.array([case.ratio, *[1.0] * (case.n_plans - 1)])
    levels = LEVEL + np.array([case.gain * case.seed_sd, *[0.0] * (case.n_plans - 1)])
    spread = (sds / stats.norm.pdf(stats.norm.ppf(LEVEL)))[:, None, None, None]
    steady = np.sqrt(COMMON) * draw(CHUNK, 1, n) + np.sqrt(OF_PLAN) * draw(case.n_plans, CHUNK, 1, n)
    noise = steady + np.sqrt(RESIDUAL) * draw(case.n_plans, CHUNK, case.n_seeds, n)
    middle = stats.norm.ppf(levels)[:, None, None, None] * np.sqrt(1 + spread**2)
    return np.asarray(middle + spread * moved + noise > 0, dtype=np.float32)


def judged(case: Case, n_runs: int, *, is_pooled: bool) -> Stops:
    """Where the simulated confirmations stop."""
    rng = np.random.default_rng(zlib.crc32(repr(case).encode()))
    design = Design(planned_seeds=case.n_seeds, margin=MARGIN)
    parts = []
    for _ in range(n_runs // CHUNK):
        tables = scores(case, rng).astype(np.float64)
        plans = [moments(table) for table in tables] if is_pooled else []
        parts.append(find_stops(moments(tables[0] - tables[1]), design, plans=plans))
    return Stops(**{name: np.concatenate([vars(part)[name] for part in parts]) for name in vars(parts[0])})


def cases() -> Iterator[Case]:
    """Alike plans, plans near the cliff, and true gains."""
    for n_seeds in (2, 3, 5):
        for n_plans in (2, 3, 4):
            alike = Case(n_plans=n_plans, n_seeds=n_seeds, n_examples=500)
            yield alike
            yield replace(alike, seed_sd=0.005)
            for ratio in (0.5, 2.0, 3.0):
                yield replace(alike, ratio=ratio)
            for gain in (2.0, 4.0):
                yield replace(alike, gain=gain)


def main(n_runs: int) -> None:
    """Print the table."""
    print(
        "| seeds | plans | seed sd | ratio | gain / sd | better % | pooled | equivalent % | pooled "
        "| covers % | pooled | half-width | pooled |\n" + "|---" * 13 + "|"
    )
    for case in cases():
        alone, together = (judged(case, n_runs, is_pooled=is_pooled) for is_pooled in (False, True))
        truth = case.gain * case.seed_sd
        cells = [
            str(case.n_seeds),
            str(case.n_plans),
            f"{case.seed_sd:g}",
            f"{case.ratio:g}",
            f"{case.gain:g}",
        ]
        for code in (BETTER, EQUIVALENT):
            cells += [f"{100 * np.mean(seen.code == code):.1f}" for seen in (alone, together)]
        cells += [f"{covered(seen.low, seen.high, truth):.1f}" for seen in (alone, together)]
        cells += [f"{POINTS * np.median(seen.high - seen.low) / 2:.1f}" for seen in (alone, together)]
        print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000)

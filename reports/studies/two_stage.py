"""A confirmation of two stages (some seeds, then decide or add the rest) beside the sequential one.

    python reports/studies/two_stage.py [RUNS] [PART ...]

Parts: `points`, `equivalence`, `least`; without a name, all run. Each row summarises RUNS (10,000, a
multiple of 2,000) simulated confirmations of one design, on the worlds of `confirmation_calibration` and on
the same draws as the other rows. As in the product the seeds' variance is that of both plans together.

A design of two stages has one bound a stage and nothing else: no table of constants and no look between.
`O'Brien` takes the textbook's tails for two looks, at half and at all of the information; `halves` and
`fifths` divide the error by Bonferroni, which needs no assumption on how the looks depend. A number says
below which chance of a decision the second stage is futile, 0.05 where there is none (the product before
2026-11-28).
Combination tests (Bauer & Köhne) and conditional errors are left out: they want independent stages, and
here both stages see the same examples.

Source:
    Jennison & Turnbull 1999, "Group Sequential Methods", table 2.3 (two looks, alpha 0.05).
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from confirmation_calibration import CHUNK, Truth, both, covered, first
from scipy import stats

from autopeft.evidence.bounds import BETTER, EQUIVALENT, FUTILE, OPEN, WORSE, Design, decide
from autopeft.evidence.pooling import pooled
from autopeft.evidence.sequential import Stops, find_stops
from autopeft.evidence.unbiased import prefixes, subsets, unbiased_means
from autopeft.evidence.variance import Floats, MeanSquares, Moments, half_width, moments, pseudo_differences

# Two-sided tails of the stages, as shares of alpha.
TAILS = {
    "O'Brien": (2 * stats.norm.sf(2.797) / 0.05, 2 * stats.norm.sf(1.977) / 0.05),
    "halves": (0.5, 0.5),
    "fifths": (0.2, 0.8),
}
GAINS = (0.0, 0.005, 0.01, 0.02, 0.04)
WORLDS = ((300, 0.008), (1000, 0.015))  # examples, seeds' standard deviation of one plan
DESIGNS = (
    *("4", "2+2 O'Brien", "5", "5 0.15", "6"),
    *("3+2 halves", "3+2 fifths", "3+2 fifths 0.15", "3+2 O'Brien 0.15"),
)
LONG = ("10", "10 0.15", "5+5 fifths 0.15")


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Simulated confirmations: the differences and the scores of both plans, as moments."""

    differences: Moments
    plans: tuple[Moments, ...]

    def first(self, n_seeds: int) -> Batch:
        """The first seeds alone."""
        plans = tuple(first(plan, n_seeds) for plan in self.plans)
        return Batch(differences=first(self.differences, n_seeds), plans=plans)

    def squares(self, chosen: npt.ArrayLike, design: Design) -> MeanSquares:
        """Mean squares over some of the seeds, pooled as in the product."""
        pseudo = pseudo_differences(design.span)
        return pooled(self.differences.squares(chosen, pseudo=pseudo, floor=0.0), self.plans, chosen)


@dataclass(frozen=True, kw_only=True)
class TwoStage(Design):
    """A design that looks after `first_seeds` and after all, each time with a fixed share of the error."""

    first_seeds: int = 3
    tails: tuple[float, float] = (0.5, 0.5)

    @property
    def first_look(self) -> int:
        """Seeds at the first look."""
        return self.first_seeds

    def tail(self, squares: MeanSquares, alpha: float) -> Floats:
        """Two-sided tail probability of this look."""
        is_last = squares.n_seeds == self.planned_seeds
        return np.full_like(squares.mean, alpha * self.tails[is_last])


def design_of(name: str, *, margin: float, span: float | None) -> Design:
    """The design of a row: `5` is the product's, `3+2 fifths` one of two stages.

    A number after that is the chance of a decision below which the other seeds are futile.
    """
    stages, *words = name.split()
    n_first, n_added = map(int, stages.split("+")) if "+" in stages else (int(stages), 0)
    chance = float(words[-1]) if words and words[-1].startswith("0.") else 0.05
    design = Design(planned_seeds=n_first + n_added, margin=margin, span=span, least_chance=chance)
    return TwoStage(**vars(design), first_seeds=n_first, tails=TAILS[words[0]]) if n_added else design


def judged(batch: Batch, design: Design) -> Stops:
    """Where the confirmations stop."""
    batch = batch.first(design.planned_seeds)
    if not isinstance(design, TwoStage):
        return find_stops(batch.differences, design, plans=batch.plans)
    few, every = design.first_seeds, design.planned_seeds
    masks, n_runs = subsets(every), len(batch.differences.rows)
    early = np.flatnonzero(masks.sum(axis=1) == few)
    stops = np.zeros((n_runs, 2**every), dtype=bool)
    stops[:, early] = decide(batch.squares(masks[early], design), design) != OPEN
    numbers = []
    for n_looked in (few, every):
        squares = batch.squares(masks[prefixes(every)[n_looked - 1]], design)
        wide, narrow = (half_width(squares, design.tail(squares, alpha)) for alpha in (0.05, 0.10))
        numbers.append((decide(squares, design), squares.mean, squares.std_error, wide, narrow))
    has_stopped = numbers[0][0] != OPEN
    code, mean, error, wide, narrow = (np.where(has_stopped, *pair) for pair in zip(*numbers, strict=True))
    n_seeds = np.where(has_stopped, few, every)
    unbiased = unbiased_means(batch.differences, stops, n_seeds, first_look=few)
    return Stops(
        n_seeds=n_seeds,
        code=code,
        mean=mean,
        unbiased=unbiased,
        std_error=error,
        low=mean - wide,
        high=mean + wide,
        low_90=mean - narrow,
        high_90=mean + narrow,
    )


def of_truth(truth: Truth, n_runs: int) -> Iterator[Batch]:
    """Confirmations of a world of the calibration."""
    rng = np.random.default_rng(zlib.crc32(repr(truth).encode()))
    for _ in range(n_runs // CHUNK):
        best, baseline = both(truth, rng, CHUNK).astype(np.float64)
        yield Batch(differences=moments(best - baseline), plans=(moments(best), moments(baseline)))


def of_shares(by_example: float, gain: float, n_runs: int, *, n_seeds: int = 10) -> Iterator[Batch]:
    """Confirmations where a seed moves the difference by 1, and the examples its mean by `by_example`."""
    rng, n = np.random.default_rng(6), 40
    for _ in range(n_runs // CHUNK):
        seeds = rng.standard_normal((2, CHUNK, n_seeds, 1)) + 0.3 * rng.standard_normal(
            (2, CHUNK, n_seeds, n)
        )
        plans = np.sqrt(0.5) * (seeds + by_example * np.sqrt(n) * rng.standard_normal((2, CHUNK, 1, n)))
        plans[0] += gain
        best, baseline = plans
        yield Batch(differences=moments(best - baseline), plans=(moments(best), moments(baseline)))


def summary(batches: Iterator[Batch], designs: dict[str, Design]) -> dict[str, Stops]:
    """Where the confirmations stop, by design."""
    parts: dict[str, list[Stops]] = {name: [] for name in designs}
    for batch in batches:
        for name, design in designs.items():
            parts[name].append(judged(batch, design))
    return {
        name: Stops(**{key: np.concatenate([vars(stop)[key] for stop in stops]) for key in vars(stops[0])})
        for name, stops in parts.items()
    }


def percent(seen: Stops, *codes: int) -> float:
    """How often one of the decisions is taken."""
    return 100 * float(np.isin(seen.code, codes).mean())


def points(n_runs: int) -> None:
    """Plans 0 to 4 points apart, accuracies around 0.85."""
    print(
        "| N | seed sd | seeds | wrong % | better % at 0.5 / 1 / 2 / 4 points | seeds used at 0 / 0.5 / 1 / "
        "2 / 4 | futile % at 0 | bias, plain | bias, averaged | covers % |\n" + "|---" * 10 + "|"
    )
    for n, sd in WORLDS:
        for names, runs in ((DESIGNS, n_runs), (LONG, n_runs // 4)):
            designs = {name: design_of(name, margin=0.01, span=1.0) for name in names}
            by_gain = []
            for gain in GAINS:
                truth = Truth(kind="binary", level=0.85, n_examples=n, seed_sd=sd, gain=gain)
                by_gain.append(summary(of_truth(truth, runs), designs))
            for name in names:
                print(f"| {n} | {sd:g} | {name} | {_cells([seen[name] for seen in by_gain])}", flush=True)


def _cells(rows: list[Stops]) -> str:
    """The numbers of one design, over all gains; bias in points, the largest over the gains."""
    plain, averaged = (
        max(
            (100 * float(getattr(seen, key).mean() - gain) for gain, seen in zip(GAINS, rows, strict=True)),
            key=abs,
        )
        for key in ("mean", "unbiased")
    )
    covers = [covered(seen.low, seen.high, gain) for gain, seen in zip(GAINS, rows, strict=True)]
    return (
        f"{percent(rows[0], BETTER, WORSE):.1f} | "
        + " / ".join(f"{percent(seen, BETTER):.0f}" for seen in rows[1:])
        + " | "
        + " / ".join(f"{seen.n_seeds.mean():.2f}" for seen in rows)
        + f" | {percent(rows[0], FUTILE):.0f} | {plain:+.2f} | {averaged:+.2f} | {min(covers):.1f} |"
    )


def equivalence(n_runs: int) -> None:
    """`equivalent` at the margin (an error) and at 0, where the margin is 4 times what a seed moves."""
    print("| example sd | seeds | at the margin % | at 0 % | seeds used at 0 |\n" + "|---" * 5 + "|")
    designs = {name: design_of(name, margin=4.0, span=None) for name in DESIGNS}
    for by_example in (0.0, 1.0):
        edge, zero = (summary(of_shares(by_example, gain, n_runs), designs) for gain in (4.0, 0.0))
        for name in DESIGNS:
            print(
                f"| {by_example:g} | {name} | {percent(edge[name], EQUIVALENT):.1f} | "
                f"{percent(zero[name], EQUIVALENT):.1f} | {zero[name].n_seeds.mean():.2f} |",
                flush=True,
            )


def least(n_runs: int) -> None:
    """Alike plans: `better` or `worse` in percent, by the examples' part; without pooling, which is wider."""
    shares = (0.0, 0.1, 0.2, 0.5)
    print("| seeds | " + " | ".join(f"{share:g}" for share in shares) + " |\n" + "|---" * 5 + "|")
    designs = {name: design_of(name, margin=1e-6, span=None) for name in DESIGNS}
    cells: dict[str, list[str]] = {name: [] for name in designs}
    for share in shares:
        batches = (replace(batch, plans=()) for batch in of_shares(share, 0.0, n_runs))
        for name, seen in summary(batches, designs).items():
            cells[name].append(f"{percent(seen, BETTER, WORSE):.1f}")
    for name, row in cells.items():
        print(f"| {name} | " + " | ".join(row) + " |", flush=True)


PARTS = (points, equivalence, least)


def main(n_runs: int, parts: list[str]) -> None:
    """Prints the requested parts."""
    for part in PARTS:
        if not parts or part.__name__ in parts:
            print(f"\n{part.__doc__}\n")
            part(n_runs)


if __name__ == "__main__":
    words = sys.argv[1:]
    numbers = [int(word) for word in words if word.isdigit()]
    main(numbers[0] if numbers else 10_000, [word for word in words if not word.isdigit()])

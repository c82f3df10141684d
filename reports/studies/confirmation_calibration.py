"""How often the verdict of a confirmation is right: simulated plans with a known difference.

    python reports/studies/confirmation_calibration.py [RUNS] [PART ...]

Each row summarises RUNS (10,000, a multiple of 500) simulated confirmations: how often each label is given,
how often the 95 % interval covers the truth, the bias of the estimate in standard deviations of the
estimate, and the seeds used. The parts `null` and `gain` add the same for the unadjusted interval, looked
at after every seed. Other parts: `bounds`, `power`, `diverged`, `metrics`, `equivalence`; without a name,
all run.
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy import stats

from autopeft.evidence import paired_interval
from autopeft.evidence.bounds import BETTER, EQUIVALENT, FUTILE, WORSE, Design
from autopeft.evidence.sequential import Stops, find_stops
from autopeft.evidence.variance import Moments, half_width, moments, pseudo_differences

Array = npt.NDArray[np.float64]
CHUNK = 500
MOST_SEEDS = 10
# Shares of an example's variance: common to both plans, to the seeds of one plan, and to one run.
COMMON, OF_PLAN, RESIDUAL = 0.65, 0.1, 0.25
SAME_ORDER = 0.3  # correlation of the two plans' seed effects: they share the data order


@dataclass(frozen=True, kw_only=True)
class Truth:
    """Two plans; for `binary` scores `level` is the baseline's accuracy, for losses its mean loss.

    `seed_sd` is that of one plan over seeds and `gain` the true difference, in units of the scores.
    """

    kind: str
    level: float
    n_examples: int
    seed_sd: float
    gain: float

    @property
    def margin(self) -> float:
        """One point, or 1 % of the baseline's loss."""
        return 0.01 if self.kind == "binary" else 0.01 * self.level

    @property
    def span(self) -> float | None:
        """Width of the range of the scores."""
        return 1.0 if self.kind == "binary" else None


def effects(truth: Truth, rng: np.random.Generator, n_runs: int) -> tuple[Array, Array]:
    """Seed effects (2, runs, S, 1) and example effects (2, runs, S, N), each of variance 1."""

    def draw(*shape: int) -> Array:
        return rng.standard_normal(shape, dtype=np.float32)

    shared, separate = draw(n_runs, MOST_SEEDS, 1), draw(2, n_runs, MOST_SEEDS, 1)
    seeds = np.sqrt(SAME_ORDER) * shared + np.sqrt(1 - SAME_ORDER) * separate
    n = truth.n_examples
    steady = np.sqrt(COMMON) * draw(n_runs, 1, n) + np.sqrt(OF_PLAN) * draw(2, n_runs, 1, n)
    return seeds, steady + np.float32(np.sqrt(RESIDUAL)) * draw(2, n_runs, MOST_SEEDS, n)


def both(truth: Truth, rng: np.random.Generator, n_runs: int) -> Array:
    """Scores (2, runs, 10, N) of best and baseline, `truth.gain` apart over all seeds and examples."""
    seeds, examples = effects(truth, rng, n_runs)
    levels = np.array([truth.level + truth.gain, truth.level])[:, None, None, None]
    if truth.kind == "binary":  # a probit: accuracy of a seed is cdf(z + its effect)
        spread = truth.seed_sd / stats.norm.pdf(stats.norm.ppf(truth.level))
        z = (stats.norm.ppf(levels) * np.sqrt(1 + spread**2)).astype(np.float32)
        return np.asarray(z + np.float32(spread) * seeds + examples > 0, dtype=np.float32)
    losses = np.array([truth.level - truth.gain, truth.level])[:, None, None, None]
    noise = examples
    if truth.kind == "lognormal":  # skewed, as losses of a trained classifier are
        noise = (np.exp(examples) - np.exp(0.5)) / np.sqrt(np.exp(2) - np.exp(1))
    return -np.asarray(losses + truth.seed_sd * seeds + truth.level * noise)


def simulated(truth: Truth, n_runs: int, *, seed: int = 0) -> Moments:
    """Moments of `n_runs` confirmations."""
    rng = np.random.default_rng([seed, zlib.crc32(repr(truth).encode())])
    return joined(
        [moments(np.subtract(*both(truth, rng, CHUNK), dtype=np.float64)) for _ in range(n_runs // CHUNK)]
    )


def joined(parts: Sequence[Moments]) -> Moments:
    """One batch of several."""
    centre, rows, products = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("centre", "rows", "products")
    )
    return Moments(centre=centre, rows=rows, products=products, n_examples=parts[0].n_examples)


def first(every: Moments, n_seeds: int) -> Moments:
    """The moments of the first seeds alone; the centre need not change, since any constant would do."""
    return replace(every, rows=every.rows[:, :n_seeds], products=every.products[:, :n_seeds, :n_seeds])


def judged(every: Moments, design: Design) -> Stops:
    """Where the confirmations stop, in chunks that fit in memory."""
    few = first(every, design.planned_seeds)
    starts = range(0, len(few.rows), CHUNK)
    parts = [find_stops(few.take(np.arange(at, min(at + CHUNK, len(few.rows)))), design) for at in starts]
    return Stops(**{name: np.concatenate([vars(part)[name] for part in parts]) for name in vars(parts[0])})


def unadjusted(every: Moments, design: Design) -> dict[str, Array]:
    """The interval of one look, taken after every seed until it decides."""
    n_runs = len(every.rows)
    code, mean, half = np.zeros(n_runs, dtype=int), np.zeros(n_runs), np.zeros(n_runs)
    for n_seeds in range(design.first_look, design.planned_seeds + 1):
        few = first(every, n_seeds)
        squares = few.squares(np.ones(n_seeds), pseudo=pseudo_differences(design.span), floor=0.0)
        wide, narrow = half_width(squares, 0.05), half_width(squares, 0.10)
        is_open = code == 0
        mean, half = np.where(is_open, squares.mean, mean), np.where(is_open, wide, half)
        cases = [squares.mean > wide, squares.mean < -wide, np.abs(squares.mean) + narrow < design.margin]
        code = np.where(is_open, np.select(cases, [BETTER, WORSE, EQUIVALENT], 0), code)
    return {"code": code, "low": mean - half, "high": mean + half}


def covered(low: Array, high: Array, gain: float) -> float:
    """Share of intervals that hold the truth, in percent."""
    return 100 * float(np.mean((low <= gain) & (gain <= high)))


def row(truth: Truth, every: Moments, planned: int) -> str:
    """One line of the table."""
    design = Design(planned_seeds=planned, margin=truth.margin, span=truth.span)
    seen, plain = judged(every, design), unadjusted(every, design)
    shares = [100 * float(np.mean(seen.code == code)) for code in (BETTER, WORSE, EQUIVALENT, FUTILE)]
    bias = [float((est.mean() - truth.gain) / est.std()) for est in (seen.unbiased, seen.mean)]
    width = np.median(seen.high - seen.low) / 2
    outside = 100 * float(np.mean((seen.unbiased < seen.low) | (seen.unbiased > seen.high)))
    return (
        f"| {truth.kind} {truth.level:g} | {truth.n_examples} | {truth.seed_sd:.4g} | "
        f"{truth.gain / truth.seed_sd:.1f} | {planned} | "
        + " | ".join(f"{share:.1f}" for share in shares)
        + f" | {covered(seen.low, seen.high, truth.gain):.1f} | {bias[0]:+.3f} | {bias[1]:+.3f} | "
        f"{width:.4f} | "
        f"{outside:.2f} | {seen.n_seeds.mean():.2f} | {100 * np.mean(plain['code'] == BETTER):.1f} | "
        f"{covered(plain['low'], plain['high'], truth.gain):.1f} |"
    )


HEADER = (
    "| scores | N | seed sd | gain / sd | seeds | better % | worse % | equivalent % | futile % | covers % | "
    "bias | bias of plain mean | half-width | outside % | seeds used | unadjusted: better % | covers % |\n"
    "|" + "---|" * 17
)
SETTINGS = [
    *(("binary", 0.85, n, sd) for n in (100, 300, 1000) for sd in (0.003, 0.015)),
    *(("binary", level, 300, 0.008) for level in (0.7, 0.95)),
    ("binary", 0.95, 100, 0.003),
    ("binary", 0.9, 1000, 0.03),
    *(("gaussian", 0.4, n, 0.02) for n in (100, 1000)),
    ("gaussian", 0.4, 1000, 0.1),
    ("lognormal", 0.4, 300, 0.02),
]


def calibration(n_runs: int, gains: tuple[float, ...]) -> None:
    """The table of all settings."""
    print(HEADER, flush=True)
    for kind, level, n, sd in SETTINGS:
        for gain in gains:
            truth = Truth(kind=kind, level=level, n_examples=n, seed_sd=sd, gain=gain * sd)
            every = simulated(truth, n_runs)
            for planned in (3, 5, 10):
                print(row(truth, every, planned), flush=True)


def bounds(n_runs: int) -> None:
    """Alike plans at the least favourable noise: `better` or `worse` in percent, by the examples' part."""
    spreads = (0.0, 0.1, 0.14, 0.2, 0.5)
    print("| seeds | N | " + " | ".join(f"{x:g}" for x in spreads) + " |\n" + "|---" * 7 + "|")
    for planned in (2, 3, 4, 5, 7, 10):
        for n in (20, 50):
            cells = []
            for by_example in spreads:
                rng, wrong = np.random.default_rng([planned, n]), []
                for _ in range(n_runs // CHUNK):
                    examples = by_example * np.sqrt(n) * rng.standard_normal((CHUNK, 1, n))
                    noise = rng.standard_normal((CHUNK, planned, 1)) + 0.3 * rng.standard_normal(
                        (CHUNK, planned, n)
                    )
                    design = Design(planned_seeds=planned, margin=1e-6, span=None)
                    code = find_stops(moments(examples + noise), design).code
                    wrong.append(np.isin(code, [BETTER, WORSE]).mean())
                cells.append(f"{100 * np.mean(wrong):.2f}")
            print(f"| {planned} | {n} | " + " | ".join(cells) + " |", flush=True)


def power(n_runs: int) -> None:
    """How often `better` is said, and on how many seeds, by planned seeds and gain."""
    print("| scores | N | seed sd | gain / sd | " + " | ".join(f"{k} seeds" for k in range(2, 11)) + " |")
    print("|" + "---|" * 13)
    for n, sd in ((300, 0.008), (1000, 0.008), (1000, 0.015)):
        for gain in (0.5, 1.0, 2.0, 4.0):
            truth = Truth(kind="binary", level=0.85, n_examples=n, seed_sd=sd, gain=gain * sd)
            every = simulated(truth, n_runs)
            cells = []
            for planned in range(2, 11):
                seen = judged(every, Design(planned_seeds=planned, margin=0.01))
                cells.append(f"{100 * np.mean(seen.code == BETTER):.0f} % ({seen.n_seeds.mean():.1f})")
            print(f"| binary 0.85 | {n} | {sd:g} | {gain:g} | " + " | ".join(cells) + " |", flush=True)


def diverged(n_runs: int) -> None:
    """Each seed of the best plan fails with a chance of its own and counts as 0 on every example."""
    print(
        "| chance | gain / sd | seeds | better % | worse % | futile % | covers % | bias | half-width | used |"
    )
    print("|" + "---|" * 10)
    for chance in (0.02, 0.1, 0.25):
        for gain in (0.0, 4.0):
            truth = Truth(kind="binary", level=0.85, n_examples=300, seed_sd=0.008, gain=gain * 0.008)
            rng, parts = np.random.default_rng(3), []
            for _ in range(n_runs // CHUNK):
                scores = both(truth, rng, CHUNK)
                fails = rng.random((CHUNK, MOST_SEEDS, 1)) < chance
                parts.append(moments(np.where(fails, 0, scores[0]) - scores[1]))
            every, expected = joined(parts), truth.gain - chance * (truth.level + truth.gain)
            for planned in (4, 10):
                seen = judged(every, Design(planned_seeds=planned, margin=0.01))
                shares = [100 * float(np.mean(seen.code == code)) for code in (BETTER, WORSE, FUTILE)]
                bias = float((seen.unbiased.mean() - expected) / seen.unbiased.std())
                print(
                    f"| {chance:g} | {gain:g} | {planned} | " + " | ".join(f"{x:.1f}" for x in shares) + " | "
                    f"{covered(seen.low, seen.high, expected):.1f} | {bias:+.3f} | "
                    f"{np.median(seen.high - seen.low) / 2:.3f} | {seen.n_seeds.mean():.1f} |",
                    flush=True,
                )


def equivalence(n_runs: int) -> None:
    """`equivalent` where the difference is the margin (an error), and where it is 0; seeds of sd 1."""
    print(
        "| margin | example sd | seeds | said at the margin % | said at 0 % | seeds used at 0 |\n"
        + "|---" * 6
        + "|"
    )
    for margin in (2.0, 4.0):
        for by_example in (0.0, 0.7):
            rng = np.random.default_rng(6)
            noise = rng.standard_normal((n_runs, MOST_SEEDS, 1)) + rng.standard_normal(
                (n_runs, MOST_SEEDS, 40)
            )
            table = noise + by_example * np.sqrt(40) * rng.standard_normal((n_runs, 1, 40))
            for planned in (3, 5, 10):
                design = Design(planned_seeds=planned, margin=margin, span=None)
                edge, zero = (judged(moments(table + gain), design) for gain in (margin, 0.0))
                shares = [100 * np.mean(seen.code == EQUIVALENT) for seen in (edge, zero)]
                print(
                    f"| {margin:g} | {by_example:g} | {planned} | {shares[0]:.1f} | {shares[1]:.1f} | "
                    f"{zero.n_seeds.mean():.1f} |",
                    flush=True,
                )


def metrics(n_runs: int) -> None:
    """Pseudo-values of Pearson's r and of F1: coverage of the difference of two plans, three seeds."""
    print("| metric | N | covers % | better % | bias / sd |\n|---|---|---|---|---|")
    for name in ("pearson", "f1"):
        for n in (100, 500):
            rng, low, high, mean = np.random.default_rng(5), [], [], []
            for _ in range(n_runs // 20):
                target = rng.standard_normal(n)
                common, rows = rng.standard_normal((1, n)), []
                for _plan in range(2):
                    noise = 0.5 * common + 0.5 * rng.standard_normal((3, n))
                    guess = target + noise + 0.3 * rng.standard_normal((1, n))
                    if name == "f1":
                        rows.append([pseudo_values(f1_of(g > 1, target > 1), n) for g in guess])
                    else:
                        rows.append([pseudo_values(pearson_of(g, target), n) for g in guess])
                interval = paired_interval(*rows, span=None)
                low, high, mean = [*low, interval.low], [*high, interval.high], [*mean, interval.mean]
            ends = np.array(low), np.array(high)
            print(
                f"| {name} | {n} | {covered(*ends, 0.0):.1f} | {100 * np.mean(ends[0] > 0):.1f} | "
                f"{np.mean(mean) / np.std(mean):+.3f} |",
                flush=True,
            )


def pseudo_values(metric: Callable[[npt.NDArray[np.int64]], float], n_examples: int) -> Array:
    """Leave-one-out jackknife, N m - (N - 1) m_without_i, shape (N,): its mean is the metric less its bias.

    Those of `autopeft.metrics` have the plain metric as their mean and the same spread.

    Args:
        metric: The metric of the examples with these indices; it is called N + 1 times.
        n_examples: N.

    Source:
        Tukey 1958; Miller 1974, Biometrika 61:1, section 2.
    """
    every = np.arange(n_examples)
    without = np.array([metric(np.delete(every, left_out)) for left_out in every])
    return np.asarray(n_examples * metric(every) - (n_examples - 1) * without)


def f1_of(
    guess: npt.NDArray[np.bool_], truth: npt.NDArray[np.bool_]
) -> Callable[[npt.NDArray[np.int64]], float]:
    """F1 of the positive class on some examples."""

    def metric(at: npt.NDArray[np.int64]) -> float:
        return float(2 * (guess[at] & truth[at]).sum() / max((guess[at].sum() + truth[at].sum()), 1))

    return metric


def pearson_of(guess: Array, truth: Array) -> Callable[[npt.NDArray[np.int64]], float]:
    """Pearson's r on some examples."""

    def metric(at: npt.NDArray[np.int64]) -> float:
        return float(np.corrcoef(guess[at], truth[at])[0, 1])

    return metric


PARTS = (bounds, power, diverged, metrics, equivalence)


def main(n_runs: int, parts: list[str]) -> None:
    """Prints the requested parts."""
    if "null" in parts:
        calibration(n_runs, (0.0,))
    if "gain" in parts:
        calibration(n_runs, (1.0, 2.0))
    for part in PARTS:
        if part.__name__ in parts:
            print(f"\n{part.__doc__}\n")
            part(n_runs)


if __name__ == "__main__":
    runs = [int(word) for word in sys.argv[1:] if word.isdigit()]
    words = [word for word in sys.argv[1:] if not word.isdigit()]
    main(runs[0] if runs else 10_000, words or ["null", "gain", *(part.__name__ for part in PARTS)])

"""The evidence for the ranges of learning rates and for LoRA's scale rule, as Markdown.

    python reports/studies/rate_evidence.py > reports/studies/learning_rates.md

Reads `published_learning_rates.csv`, `method_learning_rates.csv` and `rank_learning_rates.csv` beside it.
The first holds the runs of `peft`'s method comparison on Llama-3.2-3B (5,000 steps of 4 examples; Apache-2.0;
means over repeated runs of one config), the others what `learning_rates.py` writes.
"""

from __future__ import annotations

import csv
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from autopeft.extension import discover
from autopeft.methods.parts import PeftMethod
from autopeft.records import Adapter, rate, rate_position

HERE = Path(__file__).parent
LLAMA = 3072  # hidden size of Llama-3.2-3B
WIDTHS = {"MiniLM-L6": 384, "SmolLM2-135M-Instruct.Q4_1.gguf": 576, "all-mpnet-base-v2": 768}
DEFAULT_RATE = 1e-4  # of the published comparison
PLAIN_LORA = 0.4831  # accuracy of the published LoRA of rank 32 at q and v
FAILED = 1e3  # in place of the loss of a run that diverged
RULES = {
    "alpha / r constant": lambda r: 2.0,
    "alpha ∝ √r": lambda r: 4.0 / math.sqrt(r),
    "alpha constant": lambda r: 8.0 / r,
}
METHODS: Mapping[str, PeftMethod] = discover("autopeft.methods")


@dataclass(frozen=True, kw_only=True)
class Best:
    """The best learning rate of a row of rates; `is_edge` where it is the lowest or highest of them."""

    rate: float
    is_edge: bool

    def __str__(self) -> str:
        """The rate, marked where it is at the edge."""
        return f"{rate(self.rate)}{' (edge)' if self.is_edge else ''}"


def best_rate(losses: Mapping[float, float]) -> Best | None:
    """The lowest point of the parabola through the best rate and its neighbours, in the logarithm.

    None for a single rate.
    """
    rates = sorted(losses)
    if len(rates) < 2:
        return None
    at = min(range(len(rates)), key=lambda index: losses[rates[index]])
    if at in (0, len(rates) - 1):
        return Best(rate=rates[at], is_edge=True)
    x, y = [math.log(r) for r in rates[at - 1 : at + 2]], [losses[r] for r in rates[at - 1 : at + 2]]
    left, right = (y[1] - y[0]) / (x[1] - x[0]), (y[2] - y[1]) / (x[2] - x[1])
    if right == left:
        return Best(rate=rates[at], is_edge=False)
    # The slope of the parabola is `left` midway between the first two points, `right` between the last two.
    middle = (x[0] + x[1]) / 2 - left * (x[2] - x[0]) / 2 / (right - left)
    return Best(rate=math.exp(middle), is_edge=False)


def rows(name: str) -> list[dict[str, str]]:
    """The rows of a file beside this one; none where it is missing."""
    path = HERE / name
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def loss_of(row: Mapping[str, str]) -> float:
    """The loss of a run; a large number where it diverged."""
    loss = float(row["loss"] or "inf")
    return loss if math.isfinite(loss) else FAILED


@dataclass(frozen=True, kw_only=True)
class Published:
    """The best published rate of a method in the scale of this package, and all rates that were tried."""

    rate: float
    accuracy: float
    tried: frozenset[float]

    @property
    def is_telling(self) -> bool:
        """Whether more was tried than the comparison's default, or that trained nearly as well as LoRA."""
        return self.tried != {DEFAULT_RATE} or self.accuracy > PLAIN_LORA - 0.05


def published() -> dict[str, Published]:
    """Method -> its best published rate."""
    found: dict[str, list[tuple[float, float, float]]] = defaultdict(list)
    for row in rows("published_learning_rates.csv"):
        method, given = METHODS[row["method"]], float(row["learning_rate"])
        here = given * float(row["scale"]) / scale_here(method, int(row["rank"]))
        found[method.name].append((float(row["test_accuracy"]), here, given))
    return {
        name: Published(rate=max(runs)[1], accuracy=max(runs)[0], tried=frozenset(run[2] for run in runs))
        for name, runs in found.items()
    }


def scale_here(method: PeftMethod, rank: int) -> float:
    """What `peft` multiplies an update by: alpha / r, or a `scaling` in the config."""
    if method.name != "fourierft":
        return method.scale(rank)
    (config,) = method.configs([Adapter(method=method.name, site="m", rank=50)])
    return float(config.scaling)


def measured() -> dict[tuple[str, str, str], dict[str, dict[float, float]]]:
    """Model, data and steps -> method -> rate -> loss."""
    found: dict[tuple[str, str, str], dict[str, dict[float, float]]] = defaultdict(lambda: defaultdict(dict))
    for row in rows("method_learning_rates.csv"):
        key = (row["model"], row["data"], row["steps"])
        found[key][row["name"]][float(row["learning_rate"])] = loss_of(row)
    return found


def with_position(best: Best | float, method: PeftMethod, width: int) -> str:
    """A rate, and its position in the method's range at a width."""
    value = best.rate if isinstance(best, Best) else best
    position = rate_position(value, method.at_width(width).learning_rate_range)
    return f"{best if isinstance(best, Best) else rate(best)} at {position:.2f}"


def method_table() -> str:
    """Method, its ranges, its best published rate, and its best measured rates, each with its position."""
    studies, known = measured(), published()
    studies = {key: studies[key] for key in sorted(studies, key=lambda key: WIDTHS[key[0]])}
    lines = []
    for name, method in METHODS.items():
        low, high = method.learning_rate_range
        there = "–"
        if name in known:
            best = known[name]
            there = f"{with_position(best.rate, method, LLAMA)}; {100 * best.accuracy:.0f} %"
            there += "" if best.is_telling else ", default alone"
        cells = []
        for (model, *_), losses in studies.items():
            found = best_rate(losses.get(name, {}))
            cells.append("–" if found is None else with_position(found, method, WIDTHS[model]))
        wide = method.at_width(LLAMA).learning_rate_range
        cells = [f"{rate(low)} … {rate(high)}", " … ".join(map(rate, wide)), there, *cells]
        lines.append((f"`{name}`", *cells))
    heads = [f"{model.split('.')[0]}, {data}, {steps} steps" for model, data, steps in studies]
    return table(("method", "range at 384", f"at {LLAMA:,}", "published best", *heads), lines)


def exponent_line() -> str:
    """How fast the best rates fall with the width, over all methods that have a width exponent."""
    known, studies = published(), measured()
    groups: dict[str, list[tuple[float, float]]] = {}
    for name, method in METHODS.items():
        points = [
            (math.log(WIDTHS[model]), math.log(found.rate))
            for (model, *_), losses in studies.items()
            if (found := best_rate(losses.get(name, {}))) is not None and not found.is_edge
        ]
        if name in known and known[name].is_telling:
            points.append((math.log(LLAMA), math.log(known[name].rate)))
        if method.width_exponent and len({width for width, _ in points}) > 1:
            groups[name] = points
    single = ", ".join(f"{name} {-slope([points]):.2f}" for name, points in groups.items())
    return f"**{-slope(groups.values()):.2f}** over {len(groups)} methods with one level each ({single})"


def rank_tables() -> Iterable[str]:
    """For each model the best rate by rank and scale rule, and how far it moves in octaves."""
    models: dict[tuple[str, str, str], dict[str, dict[tuple[int, float], dict[float, float]]]] = {}
    for row in rows("rank_learning_rates.csv"):
        key = (row["model"], row["data"], row["steps"])
        plans = models.setdefault(key, {}).setdefault(row["seed"], {})
        by_rate = plans.setdefault((int(row["rank"]), float(row["scale"])), {})
        by_rate[float(row["learning_rate"])] = loss_of(row)
    for (model, data, steps), seeds in models.items():
        plans = mean_over_seeds(seeds)
        ranks = sorted({rank for rank, _ in plans})
        lines = [(rule, *rule_cells(plans, ranks, scale_of)) for rule, scale_of in RULES.items()]
        head = ("rule", *(f"rank {rank}" for rank in ranks))
        head = (*head, "moves, octaves", "per doubling of the rank", "mean of the lowest losses")
        yield f"{model}, {data}, {steps} steps:\n\n{table(head, lines)}"


def mean_over_seeds(
    seeds: Mapping[str, Mapping[tuple[int, float], Mapping[float, float]]],
) -> dict[tuple[int, float], dict[float, float]]:
    """Rank and scale -> rate -> mean loss; a seed counts for a plan where all rates were measured with it."""
    plans: dict[tuple[int, float], dict[float, float]] = {}
    for plan in {plan for measured_plans in seeds.values() for plan in measured_plans}:
        found = [measured_plans[plan] for measured_plans in seeds.values() if plan in measured_plans]
        n_rates = max(map(len, found))
        whole = [losses for losses in found if len(losses) == n_rates]
        plans[plan] = {value: fmean(losses[value] for losses in whole) for value in whole[0]}
    return plans


def rule_cells(
    plans: Mapping[tuple[int, float], Mapping[float, float]],
    ranks: Sequence[int],
    scale_of: Callable[[int], float],
) -> list[str]:
    """The best rate at each rank under a rule, how these move, and the mean of the lowest losses."""
    cells: list[str] = []
    bests: list[tuple[float, float]] = []  # of rank and rate, in octaves
    lowest: list[float] = []
    for rank in ranks:
        losses = next((found for (r, s), found in plans.items() if r == rank and near(s, scale_of(rank))), {})
        best = best_rate(losses)
        cells.append("–" if best is None else str(best))
        if best is not None:
            bests.append((math.log2(rank), math.log2(best.rate)))
            lowest.append(min(losses.values()))
    if len(bests) < 2:
        return [*cells, "–", "–", "–"]
    moved = [value for _, value in bests]
    return [*cells, f"{max(moved) - min(moved):.1f}", f"{slope([bests]):+.2f}", f"{fmean(lowest):.3f}"]


def slope(groups: Iterable[Sequence[tuple[float, float]]]) -> float:
    """The common slope of groups of points (x, y), each with a level of its own, by least squares."""
    products, squares = 0.0, 0.0
    for points in groups:
        x_mean, y_mean = (fmean(values) for values in zip(*points, strict=True))
        products += sum((x - x_mean) * (y - y_mean) for x, y in points)
        squares += sum((x - x_mean) ** 2 for x, _ in points)
    return products / squares


def near(first: float, second: float) -> bool:
    """Whether two scales are the same but for the digits that a file keeps."""
    return math.isclose(first, second, rel_tol=1e-3)


def table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *lines))


PAGE = """# Learning rates: the evidence for the ranges

Made by `python reports/studies/rate_evidence.py`. A range is for a base model of hidden size 384; on a wider
one it is divided by (hidden size / 384) to the power of the method's `width_exponent`. "at 0.55" is the
position of a rate in the range at that model's width: 0 is its low end, 1 its high end, in the logarithm.
"(edge)": the best of the rates that were measured is the lowest or the highest of them; the other bests are
the lowest points of parabolas through three rates.

Published: `peft`'s method comparison on Llama-3.2-3B (hidden size 3,072; 5,000 steps of 4 examples), the rate
times its scale over ours, and its accuracy on GSM8K. "default alone": nothing but the comparison's default of
1e-4 was tried, and it trained far worse than LoRA (48 %), so that the rate says little.

{methods}

The exponent that these rates give (without edges and "default alone"): {exponent}.
Published runs are a hundred times as long as ours, which alone may explain a part: length and width cannot be
told apart here.

# LoRA's scale rule: how far the best rate moves with the rank

The three rules agree at rank 4. A rule is good where the best rate moves little.

{ranks}
"""


if __name__ == "__main__":
    ranks = "\n\n".join(rank_tables()) or "Not measured."
    print(PAGE.format(methods=method_table(), exponent=exponent_line(), ranks=ranks), end="")

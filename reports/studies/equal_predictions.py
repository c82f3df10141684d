"""How often two plans pass for equal on few rows where one of them is worse, by metrics of labels.

    python reports/studies/equal_predictions.py [--draws 1000]

A quarter of N rows is of class 1. One plan is right everywhere, the other one is wrong on 3 % of the rows,
drawn anew each time and alike on both seeds. Counted is how often the verdict is `equivalent` and how often
the second plan is proven to lose less than the margin of a point. Both would be wrong where the metric falls
by more than a point in expectation, so that 5 % are allowed. `before` is without pseudo-examples for metrics
whose scores have no bounds.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

from autopeft import evidence
from autopeft.extension import discover
from autopeft.records import MetricFacts

NAMES, SIZES, WRONG, MARGIN = (
    ("accuracy", "macro-f1", "balanced-accuracy", "matthews"),
    (20, 40, 80, 160, 320),
    0.03,
    0.01,
)


def shares(name: str, n: int, *, draws: int, has_step: bool) -> tuple[float, float, float]:
    """Mean difference of the metric, share of `equivalent`, and share of proofs, over so many draws."""
    metric, rng = discover("autopeft.metrics")[name], np.random.default_rng(0)
    facts = MetricFacts(
        name=name, greater_is_better=True, is_share=metric.is_share, score_span=metric.score_span
    )
    examples = evidence.Examples(step=facts.score_step if has_step else None)
    how: dict[str, Any] = {"margin": MARGIN, "span": facts.score_span, "examples": examples}
    differences, n_equal, n_proven = [], 0, 0
    for _ in range(draws):
        truth = (rng.random(n) < 0.25).astype(float)
        truth[:2] = 0.0, 1.0
        guesses = np.where(rng.random(n) < WRONG, 1 - truth, truth)
        best, other = ([list(metric.score(truth, each)[1])] * 2 for each in (truth, guesses))
        seen = evidence.look(other, best, planned_seeds=2, **how)
        (standing,) = evidence.plans_within_margin({"best": best, "other": other}, best="best", **how)
        differences.append(seen.mean_difference)
        n_equal += seen.label == "equivalent"
        n_proven += standing.is_within
    return float(np.mean(differences)), n_equal / draws, n_proven / draws


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--draws", type=int, default=1000)
    draws = parser.parse_args().draws
    print("| metric | rows | mean difference | equivalent, before | equivalent | proven, before | proven |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for name in NAMES:
        for n in SIZES:
            mean, equal_before, proven_before = shares(name, n, draws=draws, has_step=False)
            _, equal, proven = shares(name, n, draws=draws, has_step=True)
            cells = (f"{100 * value:.1f} %" for value in (equal_before, equal, proven_before, proven))
            print(f"| {name} | {n} | {mean:+.3f} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()

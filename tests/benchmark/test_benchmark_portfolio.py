"""Portfolios of plans from other cells, against all subsets."""

from __future__ import annotations

from itertools import combinations
from types import SimpleNamespace

import numpy as np
import portfolio

NAMES = [(f"arm {i}", 0.5) for i in range(6)]


def tables(values: np.ndarray) -> list[portfolio.Table]:
    """One table a row; the metric of confirm and test is the same, NaN where a plan was not measured."""
    made = []
    for row in values:
        table = portfolio.Table.__new__(portfolio.Table)
        table.metric_of = {n: (v, v) for n, v in zip(NAMES, row.tolist(), strict=True) if v == v}
        table.best = max(table.metric_of.values())
        table.surrogate = SimpleNamespace(sign=1.0)
        made.append(table)
    return made


def test_the_first_plan_is_the_best_on_average_and_each_further_one_helps_most() -> None:
    values = np.random.default_rng(0).random((4, len(NAMES)))
    made = tables(values)
    first, second = portfolio.chosen(made, 2)
    assert NAMES.index(first) == int(np.argmax(values.mean(axis=0)))
    pairs = {i: np.maximum(values[:, NAMES.index(first)], values[:, i]).mean() for i in range(len(NAMES))}
    assert NAMES.index(second) == max(pairs, key=lambda i: pairs[i])


def test_greedy_choice_is_near_the_best_of_all_subsets() -> None:
    """Greedy covers at least 1 - 1/e of what the best subset of that size gains (Nemhauser et al. 1978)."""
    for seed in range(20):
        values = np.random.default_rng(seed).random((5, len(NAMES)))
        made, floor = tables(values), values.min(axis=1)
        gain = [NAMES.index(n) for n in portfolio.chosen(made, 3)]
        greedy = (values[:, gain].max(axis=1) - floor).mean()
        best = max(
            (values[:, list(c)].max(axis=1) - floor).mean() for c in combinations(range(len(NAMES)), 3)
        )
        assert greedy >= (1 - 1 / np.e) * best


def test_a_plan_that_a_cell_lacks_helps_nothing_there() -> None:
    values = np.array([[0.9, np.nan, 0.1, 0.1, 0.1, 0.1], [0.1, 0.8, 0.5, 0.1, 0.1, 0.1]])
    (table, other) = tables(values)
    assert table.loss([NAMES[1]]) == table.loss([NAMES[2]]) == 80.0
    assert other.loss([NAMES[1]]) == 0.0
    assert np.isnan(table.regret(table.known([NAMES[1]])))
    assert table.regret(table.known([NAMES[2], NAMES[0]])) == 0.0

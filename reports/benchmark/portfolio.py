"""Whether plans that did well in other cells are good first trials of a cell that was not seen.

    python reports/benchmark/portfolio.py [--size 8] [--tables FOLDER]

A portfolio is chosen from the other cells, those of the same data left out too: each of its plans (an arm and
a position of its learning rate) is the one that lowers the mean loss of the best so far most. Its regret is
what the plan of it that is best on confirm loses on test to the best of the table on confirm, in points
(hundredths of the metric), as if a confirmation could see them all. Beside it stand the first trials of the
search, plans of the table at random (1,000 draws), and a sweep of two LoRAs at four rates. Cells with fewer
than half of their plans are left out.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from cells import CELLS, POSITIONS
from policies import BASELINES, Named, parsed
from replay import HERE, POINTS, surrogate_of
from table import TableError

from autopeft.records import Plan

N_DRAWS = 1000


class Table:
    """The metrics of a cell's plans in full, of which larger is better."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.surrogate = folder, surrogate_of(folder)
        self.data = CELLS[folder.name].data
        self.metric_of = {name: self.metrics(plan) for name, plan in self.surrogate.plans.items()}
        self.best = max(self.metric_of.values())

    def metrics(self, plan: Plan) -> tuple[float, float]:
        """Of any plan, on confirm and on test."""
        confirm, test = (self.surrogate.sign * self.surrogate.metric(plan, s) for s in ("confirm", "test"))
        return confirm, test

    def known(self, named: Iterable[Named]) -> list[tuple[float, float]]:
        """The metrics of those plans that were measured here."""
        return [self.metric_of[name] for name in named if name in self.metric_of]

    def regret(self, metrics: Sequence[tuple[float, float]]) -> float:
        """Points on test that the best on confirm loses; NaN without any."""
        return POINTS * (self.best[1] - max(metrics)[1]) if metrics else float("nan")

    def loss(self, named: Iterable[Named]) -> float:
        """Points on confirm that the best of some plans loses there; as the worst plan if none is known."""
        most = max(self.known(named), default=min(self.metric_of.values()))
        return POINTS * (self.best[0] - most[0])


def chosen(tables: Sequence[Table], size: int) -> list[Named]:
    """The plans that lower the mean loss of the best so far most, one after another.

    Of equal ones, those that lose least alone come first, then by name.
    """
    names = sorted({name for table in tables for name in table.metric_of})
    alone = {name: round(float(np.mean([t.loss([name]) for t in tables])), 6) for name in names}
    portfolio: list[Named] = []

    def together(name: Named) -> float:
        return round(float(np.mean([t.loss([*portfolio, name]) for t in tables])), 6)

    while len(portfolio) < size:
        left = [name for name in names if name not in portfolio]
        portfolio.append(min(left, key=lambda name: (together(name), alone[name], name)))
    return portfolio


def of_search(table: Table, size: int) -> list[tuple[float, float]]:
    """The metrics of the plans that a search of so many trials proposes."""
    bench = parsed(f"trials={size} confirm=none")(table.surrogate, 0).bench
    return [table.metrics(plan) for plan in dict.fromkeys(m.plan for m in bench.measured)]


def at_random(table: Table, size: int) -> float:
    """The mean regret of so many plans of the table."""
    rng, named = np.random.default_rng(0), list(table.metric_of)
    draws = (rng.choice(len(named), size=min(size, len(named)), replace=False) for _ in range(N_DRAWS))
    return float(np.mean([table.regret(table.known(named[i] for i in draw)) for draw in draws]))


def main() -> None:
    """Print the regret by cell, and the portfolios."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", type=int, default=8)
    parser.add_argument("--tables", type=Path, default=HERE / "tables")
    given = parser.parse_args()
    tables = []
    for folder in sorted(p for p in given.tables.iterdir() if p.is_dir()):
        try:
            table = Table(folder)
        except TableError as error:
            print(f"Left out: {error}")
            continue
        n_known, n_planned = len(table.metric_of), table.surrogate.n_planned
        if 2 * n_known < n_planned:
            print(f"Left out: of {folder.name} {n_known} of {n_planned} plans are measured.")
        else:
            tables.append(table)
    others = {t.folder.name: [o for o in tables if o.data != t.data] for t in tables}
    portfolios = {name: chosen(rest, given.size) for name, rest in others.items()}
    lora = [(arm, position) for arm in BASELINES for position in POSITIONS]
    columns: dict[str, Callable[[Table], float]] = {
        "portfolio": lambda t: t.regret(t.known(portfolios[t.folder.name])),
        "first trials of the search": lambda t: t.regret(of_search(t, given.size)),
        "at random": lambda t: at_random(t, given.size),
        "two LoRAs at four rates": lambda t: t.regret(t.known(lora)),
    }
    print(f"| cell | plans | {' | '.join(columns)} |\n|---|---:|{'---:|' * len(columns)}")
    values = np.array([[column(table) for column in columns.values()] for table in tables])
    for table, row in zip(tables, values, strict=True):
        print(f"| {table.folder.name} | {len(table.metric_of)} | {' | '.join(f'{v:.2f}' for v in row)} |")
    print(f"| mean | | {' | '.join(f'{v:.2f}' for v in values.mean(axis=0))} |\n")
    for name, portfolio in portfolios.items():
        print(f"- {name}: {', '.join(f'{arm} at {position}' for arm, position in portfolio)}")


if __name__ == "__main__":
    main()

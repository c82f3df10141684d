"""Compute lists of plans from the tables, leave one dataset out, and replay the search with them.

    python benchmarks/tabular/portfolio.py [--seeds 8]

The baselines of `search_spaces/default.yaml` stay. As many challengers as there join them one by one: the one
with which the best plan of the list has the lowest mean regret. Regret is in points below the best plan of
the table, by the mean over confirm, test and measured seeds; cells of one dataset count as one.

The list for a cell is chosen on the other datasets of its family of tasks, or on all other datasets if the
family has no other. The default search is replayed with it, next to today's list. At last the list of each
family on all of these datasets is printed as YAML, with its evidence.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean

import yaml
from cells import ARMS, MIDDLE, OTHERS, POSITIONS
from policies import problem_of, searched
from replay import HERE, POINTS, Rows, replayed, summary, surrogate_of

from autopeft.space import ListedPlan, is_point_of, plan_of, text_of
from autopeft.space.listed import _arms_and_policies
from autopeft.types import Plan, RunSpec

CELLS = "clinc-0.1 clinc-mpnet-0.1 digits-1 med-0.2 poem-0.05 slots-0.1 uci-0.02 uci-0.5".split()
Entries = tuple[ListedPlan, ...]


class Cell:
    """A cell of the tables, and the regret in it of what a list may have."""

    def __init__(self, folder: Path) -> None:
        """Read the cell, and find its best plan."""
        self.folder, self.surrogate = folder, surrogate_of(folder)
        self.dataset = self.surrogate.description.cell.data
        self.problem = problem_of(self.surrogate, RunSpec())
        self.today = self.problem.space.listed[self.problem.family]
        self._best = max(map(self._quality, self.surrogate.plans.values()))
        self._regrets: dict[str, float] = {}

    def _quality(self, plan: Plan) -> float:
        metrics = [self.surrogate.metric(plan, split) for split in ("confirm", "test")]
        return POINTS * self.surrogate.sign * fmean(metrics)

    def regret(self, entry: ListedPlan) -> float:
        """Points of an entry below the best plan; infinite if the search leaves it out here."""
        space, context, key = self.problem.space, self.problem.context, entry.model_dump_json()
        if key not in self._regrets:
            found = _arms_and_policies(space, [entry] if entry.method in space.methods else [], context)
            qualities = [self._quality(plan_of(policy, context)) for _, policy in found]
            self._regrets[key] = self._best - max(qualities, default=-float("inf"))
        return self._regrets[key]


def mean_regret(cells: Iterable[Cell], entries: Entries) -> float:
    """The regret of the best plan of a list, as the mean over datasets."""
    by_dataset: dict[str, list[float]] = {}
    for cell in cells:
        by_dataset.setdefault(cell.dataset, []).append(min(map(cell.regret, entries)))
    return fmean(map(fmean, by_dataset.values()))


def candidates(cells: Iterable[Cell]) -> list[ListedPlan]:
    """The arms of the tables that are points of the default space, at each measured rate."""
    entries = [ListedPlan(method=method, rate=rate) for method in OTHERS for rate in MIDDLE]
    for policy in ARMS.values():
        fields = {name: getattr(policy, name) for name in ("method", "placement", "layer_share", "select")}
        rates = () if policy.other_parts else (*POSITIONS, *MIDDLE)  # a list has no mixes
        entries += [ListedPlan(**fields, options=dict(policy.options), rate=rate) for rate in rates]
    spaces = [cell.problem.space for cell in cells]
    return [entry for entry in entries if any(is_point_of(space, entry) for space in spaces)]


def portfolio(cells: Sequence[Cell], today: Entries) -> Entries:
    """Add as many challengers as today's list has to its baselines, each the best; fewer if none helps."""
    entries = tuple(entry for entry in today if entry.baseline)
    known = candidates(cells)
    while len(entries) < len(today):
        longer = min(((*entries, entry) for entry in known), key=lambda entries: mean_regret(cells, entries))
        if mean_regret(cells, longer) == mean_regret(cells, entries):
            break
        entries = longer
    return entries


def of_family(cell: Cell, cells: Sequence[Cell]) -> list[Cell]:
    """The cells that the list of a cell's family is chosen on: all cells if the family has one dataset."""
    family = [other for other in cells if other.problem.family == cell.problem.family]
    return family if len({other.dataset for other in family}) > 1 else list(cells)


def as_yaml(family: str, cells: Sequence[Cell], entries: Entries) -> str:
    """A list as it stands in a space's file, with the regret of the list with and without each entry."""
    lines, whole = [f"{family}:"], mean_regret(cells, entries)
    for entry in entries:
        without = mean_regret(cells, tuple(other for other in entries if other != entry))
        evidence = f"mean regret {whole:.2f} with it, {without:.2f} without it"
        fields = entry.model_copy(update={"evidence": evidence}).model_dump(exclude_defaults=True)
        text = yaml.safe_dump(fields, default_flow_style=True, sort_keys=False, width=1000)
        lines.append(f"  - {text.strip()}")
    return "\n".join(lines)


def left_out(cell: Cell, cells: Sequence[Cell], entries: Entries, *, n_seeds: int) -> Rows:
    """Replay the default search in a cell with today's list and with another one."""
    content = yaml.safe_load(text_of("default"))
    content["listed"][cell.problem.family] = [entry.model_dump(exclude_defaults=True) for entry in entries]
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "space.yaml"
        path.write_text(yaml.safe_dump(content), encoding="utf-8")
        finders = {"today's list": searched({}), "computed list": searched({"space": str(path)})}
        return [
            replayed(cell.folder, name, finder, seed)
            for name, finder in finders.items()
            for seed in range(n_seeds)
        ]


def main() -> None:
    """Read the arguments, replay each fold and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seeds", type=int, default=8)
    given = parser.parse_args()
    cells = [Cell(HERE / "tables" / name) for name in CELLS]
    rows: Rows = []
    for cell in cells:
        others = [other for other in of_family(cell, cells) if other.dataset != cell.dataset]
        entries = portfolio(others, cell.today)
        regrets = [mean_regret([cell], each) for each in (cell.today, entries)]
        print(f"# {cell.folder.name}: best of today's list {regrets[0]:.2f}, of this one {regrets[1]:.2f}")
        print(as_yaml(cell.problem.family, others, entries), flush=True)
        rows += left_out(cell, cells, entries, n_seeds=given.seeds)
    print(summary(rows))
    families = {cell.problem.family: cell for cell in cells}
    for family, cell in families.items():
        chosen_on = of_family(cell, cells)
        print(as_yaml(family, chosen_on, portfolio(chosen_on, cell.today)))


if __name__ == "__main__":
    main()

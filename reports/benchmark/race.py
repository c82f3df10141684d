"""A race on the tables: a list of plans in short runs, the best of them in full, judged once on confirm.

    python reports/benchmark/race.py [--seeds 2] [--cells NAME …]

Every plan of a list runs the short rung with one shared seed. The finalists are the best baseline, the best
rival and a method that starts slowly; each is trained in full from the start. The rival is handed over if it
is ahead of the baseline by so many standard errors of their paired difference on the confirm rows. What is
handed over are the weights of that very run, so that regret counts their own seed: the test score of the
best plan on confirm (means over the seeds) less the test score of these weights, in points. Costs are in R,
weights in full included. Rules without a race stand beside it for comparison.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from replay import HERE, POINTS, best_metrics, surrogate_of
from surrogate import Surrogate, TableBench
from table import SEARCH_SEED

from autopeft.records import EvaluatedSplit, Fidelity, Measurement

Entry = tuple[str, float]  # arm and position of the learning rate
Q_V, ALL = "lora/q+v", "lora/all"
SCORED = "lora/all, half by gradient"
SLOW = ("hira/all",)
FOUR: tuple[Entry, ...] = ((Q_V, 0.38), (SCORED, 0.38), ("hira/all", 0.5), ("road/all", 0.5))
LISTS: dict[str, tuple[Entry, ...]] = {
    "four": FOUR,
    "five": (*FOUR, (ALL, 0.38)),
    "six": (*FOUR, (ALL, 0.38), (Q_V, 0.15)),
    "seven": (*FOUR, (ALL, 0.38), (Q_V, 0.15), ("ia3/all", 0.38)),
    "eight": (*FOUR, (ALL, 0.38), (Q_V, 0.15), ("ia3/all", 0.38), ("ln_tuning/all", 0.62)),
}


@dataclass(frozen=True, kw_only=True)
class Rules:
    """How a race goes on from its short runs.

    Attributes:
        rung: Which of the cell's rungs is the short one.
        slow: Whether the best plan of a method that starts slowly is a finalist.
        rivals, baselines: How many of each are finalists.
        far: Standard errors on the search rows by which a slow starter may be behind.
        ahead: Standard errors on the confirm rows by which a rival must be ahead of the baseline.
        metric: Whether a metric that differs by two standard errors overrules the loss.
    """

    rung: int = 1
    slow: bool = True
    rivals: int = 1
    baselines: int = 1
    far: float = math.inf
    ahead: float = 0.0
    metric: bool = True


@dataclass(frozen=True)
class Handed:
    """The plan that is handed over, the test score of its weights, and the cost in R."""

    entry: Entry
    test: float
    cost: float


def is_baseline(entry: Entry) -> bool:
    """Whether people write the plan without a search."""
    return entry[0] in (Q_V, ALL)


class Track:
    """The runs of one race in a cell; `seed` picks which of the two measured seeds the full runs have."""

    def __init__(self, surrogate: Surrogate, seed: int) -> None:
        """Nothing has run yet."""
        self.surrogate, self.bench, self.seed = surrogate, TableBench(surrogate, seed=seed), seed

    def short(self, entry: Entry, rung: int) -> Measurement:
        """The short run of a plan on the search rows."""
        return self._run(entry, "search", self.surrogate.description.cell.rungs[rung], SEARCH_SEED)

    def full(self, entry: Entry, split: EvaluatedSplit = "confirm") -> Measurement:
        """The full run of a plan, on the rows of a split."""
        return self._run(entry, split, self.surrogate.description.cell.full, self.seed + 1)

    def _run(self, entry: Entry, split: EvaluatedSplit, steps: int, seed: int) -> Measurement:
        description = self.surrogate.description
        fidelity = Fidelity(
            split=split,
            train_steps=steps,
            train_examples=steps * description.cell.batch_size,
            eval_examples=description.examples[split],
            seed=seed,
        )
        return self.bench.measure(self.surrogate.plans[entry], fidelity)

    def ahead(self, one: Measurement, other: Measurement) -> float:
        """How many paired standard errors of the rows one run is ahead of another; 0 where both are equal."""
        if not one.example_scores or not other.example_scores:
            return math.inf * (bool(one.example_scores) - bool(other.example_scores) or 0.0)
        gaps = self.surrogate.sign * (np.array(one.example_scores) - np.array(other.example_scores))
        error = gaps.std(ddof=1) / math.sqrt(len(gaps))
        return float(gaps.mean() / error) if error else 0.0

    def score(self, run: Measurement) -> float:
        """The metric, larger is better; the worst there is of a run that diverged."""
        return -math.inf if run.metric is None else self.surrogate.sign * run.metric

    def handed(self, entry: Entry) -> Handed:
        """A plan as it is handed over, after its test rows were read."""
        test = self.full(entry, "test").metric
        cost = sum(self.bench.cost(split) for split in ("search", "confirm", "test"))
        return Handed(entry, self.surrogate.worst("test") if test is None else test, cost)


Policy = Callable[[Surrogate, int], Handed]


def race(entries: Sequence[Entry], rules: Rules) -> Policy:
    """A race of a list of plans under some rules."""

    def run(surrogate: Surrogate, seed: int) -> Handed:
        track = Track(surrogate, seed)
        known = [entry for entry in entries if entry in surrogate.plans]
        short = {entry: track.short(entry, rules.rung) for entry in known}
        order = _ranked(track, short, rules)
        baselines = [entry for entry in order if is_baseline(entry)][: rules.baselines]
        rivals = [entry for entry in order if not is_baseline(entry)]
        slow = [entry for entry in rivals if entry[0] in SLOW and rules.slow]
        leader = order[0]
        slow = [entry for entry in slow if track.ahead(short[leader], short[entry]) <= rules.far][:1]
        finalists = list(dict.fromkeys([*baselines, *rivals[: rules.rivals], *slow]))
        full = {entry: track.full(entry) for entry in finalists}
        best = max(finalists, key=lambda entry: track.score(full[entry]))
        default = max(baselines, key=lambda entry: track.score(full[entry]))
        if not is_baseline(best) and track.ahead(full[best], full[default]) < rules.ahead:
            best = default
        return track.handed(best)

    return run


def _ranked(track: Track, short: dict[Entry, Measurement], rules: Rules) -> list[Entry]:
    """Plans by loss; one whose metric is two standard errors ahead of its neighbour's goes before it."""
    losses = {entry: math.inf if seen.loss is None else seen.loss for entry, seen in short.items()}
    order = sorted(short, key=losses.__getitem__)
    for end in range(len(order) - 1, 0, -1) if rules.metric else ():
        for place in range(end):
            if track.ahead(short[order[place + 1]], short[order[place]]) > 2:
                order[place], order[place + 1] = order[place + 1], order[place]
    return order


def in_full(entries: Sequence[Entry]) -> Policy:
    """Every plan in full, the best on confirm handed over."""

    def run(surrogate: Surrogate, seed: int) -> Handed:
        track = Track(surrogate, seed)
        known = [entry for entry in entries if entry in surrogate.plans]
        known = known or [(Q_V, 0.5)]
        return track.handed(max(known, key=lambda entry: track.score(track.full(entry))))

    return run


RATES = (0.15, 0.38, 0.62, 0.85)
POLICIES: dict[str, Policy] = {
    "sweep of eight": in_full([(arm, rate) for arm in (ALL, Q_V) for rate in RATES]),
    "sweep of two": in_full([(ALL, 0.38), (Q_V, 0.38)]),
    "LoRA on q and v": in_full([(Q_V, 0.38)]),
    "HiRA": in_full([("hira/all", 0.5)]),
    "four in full": in_full(FOUR),
    "raced sweep of eight": race(
        [(arm, rate) for arm in (ALL, Q_V) for rate in RATES], Rules(slow=False, rivals=0, baselines=2)
    ),
    **{f"race of {name}": race(entries, Rules()) for name, entries in LISTS.items()},
    "four, no slow place": race(FOUR, Rules(slow=False)),
    "four, two rivals": race(FOUR, Rules(rivals=2)),
    "four, short rung of 30": race(FOUR, Rules(rung=0)),
    "four, short rung of 140": race(FOUR, Rules(rung=2)),
    "four, by loss alone": race(FOUR, Rules(metric=False)),
    "four, slow within 4 errors": race(FOUR, Rules(far=4.0)),
    "four, ahead by 1 error": race(FOUR, Rules(ahead=1.0)),
    "four, ahead by 1.6 errors": race(FOUR, Rules(ahead=1.6)),
    "eight, two rivals": race(LISTS["eight"], Rules(rivals=2)),
    "six, two baselines": race(LISTS["six"], Rules(baselines=2)),
    "six, ahead by 1 error": race(LISTS["six"], Rules(ahead=1.0)),
}


def main() -> None:
    """Print regret and cost of every policy."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tables", type=Path, default=HERE / "tables")
    parser.add_argument("--seeds", type=int, default=2, help="full runs were measured with two seeds")
    parser.add_argument(
        "--cells", nargs="+", default="clinc-0.1 digits-1 med-0.2 poem-0.05 slots-0.1 uci-0.02".split()
    )
    given = parser.parse_args()
    print(f"| policy | R | regret | {' | '.join(given.cells)} |")
    print(f"|---|---:|---:|{'---:|' * len(given.cells)}")
    for name, policy in POLICIES.items():
        regrets, costs = [], []
        for cell in given.cells:
            surrogate = surrogate_of(given.tables / cell)
            best = best_metrics(surrogate)[0]
            handed = [policy(surrogate, seed) for seed in range(given.seeds)]
            gaps = [POINTS * surrogate.sign * (best - each.test) for each in handed]
            regrets.append(float(np.mean(gaps)))
            costs.append(float(np.mean([each.cost for each in handed])))
        cells = " | ".join(f"{regret:.1f}" for regret in regrets)
        print(f"| {name} | {np.mean(costs):.1f} | {np.mean(regrets):.2f} | {cells} |", flush=True)


if __name__ == "__main__":
    main()

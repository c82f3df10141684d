"""A race on the tables: a list of plans in short runs, two of them in full, judged once on confirm.

    python benchmarks/tabular/race.py [--seeds 8] [--cells NAME …] [--lists | --samplers]

Every plan of a list runs the short rung with one shared seed. The best baseline and one challenger run in
full: a method that starts slowly, unless another challenger is clearly ahead of it. The challenger is handed
over if it is ahead of the baseline by so many standard errors of their paired difference on the confirm rows.
What is returned are the weights of that very run. Regret counts their own seed: the test score of the best
plan on confirm (means over the seeds) less the test score of these weights, in points. The gain has less
noise: the mean of the plan over seeds, confirm and test, less that of LoRA on q and v at 0.38. Costs are in R
of a run of 300 steps, finished weights included; a short rung is 75 steps. Rules without a race stand next to
it.

`--lists` chooses challengers step by step on all cells but one, and tries them on that one. `--samplers` lets
Optuna propose further plans for the short rung, from the space of the search.
"""

from __future__ import annotations

import argparse
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import optuna
from optuna.samplers import BaseSampler, GPSampler, RandomSampler, TPESampler
from policies import problem_of, proposed
from replay import HERE, POINTS, best_metrics, surrogate_of
from surrogate import Point, Surrogate
from table import SEARCH_SEED

from autopeft.store.study_file import errors_alone
from autopeft.types import Plan, RunSpec

Entry = tuple[str, float]  # arm and position of the learning rate
Q_V, ALL = "lora/q+v", "lora/all"
SCORED = "lora/all, half by gradient"
HIRA, ROAD = ("hira/all", 0.5), ("road/all", 0.5)
SIX = "clinc-0.1 digits-1 med-0.2 poem-0.05 slots-0.1 uci-0.02".split()
CLASSIFICATION: tuple[Entry, ...] = ((Q_V, 0.38), (ALL, 0.38), HIRA, ROAD)
LISTS: dict[str, tuple[Entry, ...]] = {
    "text-classification": CLASSIFICATION,
    "token-classification": ((Q_V, 0.62), (ALL, 0.38), HIRA, ROAD),
    "image-classification": ((Q_V, 0.38), (Q_V, 0.62), (SCORED, 0.38), (SCORED, 0.62)),
}
OLD: tuple[Entry, ...] = ((Q_V, 0.38), (SCORED, 0.38), HIRA, ROAD)
EIGHT = (*CLASSIFICATION, ("ia3/all", 0.38), ("lora/mlp", 0.38), ("lokr/all", 0.5), ("ln_tuning/all", 0.38))
RATES = (0.15, 0.38, 0.62, 0.85)
SWEEP: tuple[Entry, ...] = tuple((arm, rate) for arm in (ALL, Q_V) for rate in RATES)
# Costs in R of a run of 300 steps: rows of search and of confirm or test after a run.
STEPS, SEARCH_ROWS, JUDGED_ROWS = 300, 0.02, 0.05
N_PLANS = (24, 48)  # of a search with a sampler


@dataclass(frozen=True, kw_only=True)
class Rules:
    """How a race goes on from its short runs.

    Attributes:
        rung: Which of the cell's rungs is the short one.
        second: Whether the two best baselines and challengers run the next rung too before finalists are
            chosen.
        rates: Whether each finalist's other rates run the short rung, and the best of them goes on.
        by: What ranks: the loss, the metric, or the metric where two standard errors tell, else the loss.
        slow: Where a method that starts slowly has a place: `challenger` is that of the challenger, `third`
            one next to it, `leader` one next to the best of all plans, so that no baseline is needed; or
            `none`.
        far: Standard errors on the search rows by which it may be behind the best challenger, or the leader.
        ahead: Standard errors on the confirm rows by which a challenger must be ahead of the baseline.
    """

    rung: int = 1
    second: bool = False
    rates: bool = False
    by: str = "errors"
    slow: str = "challenger"
    far: float = 2.0
    ahead: float = 0.0


@dataclass(frozen=True)
class Handed:
    """The plan that is handed over, the test score of its weights, and the cost in R."""

    plan: Plan
    test: float
    cost: float


@cache
def _point(surrogate: Surrogate, plan: Plan, split: str, steps: int, seed: int) -> Point:
    seeds = {"seed": seed, "first_seed": seed if split != "search" else SEARCH_SEED}
    return surrogate.arm_of(plan).point(plan.learning_rate, split, steps, **seeds)


def errors_ahead(surrogate: Surrogate, one: Point, other: Point) -> float:
    """How many paired standard errors of the rows one run is ahead of another; 0 where both are equal."""
    if one.loss is None or other.loss is None:
        return math.inf * ((other.loss is None) - (one.loss is None) or 0.0)
    gaps = surrogate.sign * (one.scores - other.scores)
    error = gaps.std(ddof=1) / math.sqrt(len(gaps))
    return float(gaps.mean() / error) if error else 0.0


class Track:
    """The runs of one race in a cell, and their cost; `seed` picks which measured seed the full runs have."""

    def __init__(self, surrogate: Surrogate, seed: int) -> None:
        """Nothing has run yet."""
        self.surrogate, self.seed, self.cost = surrogate, seed, 0.0
        cell = surrogate.description.cell
        self.rungs, self.length = cell.rungs, cell.full

    def short(self, plans: Sequence[Plan], rung: int, *, after: int = 0) -> dict[Plan, Point]:
        """Short runs on the search rows; `after` are the steps that the plans have behind them."""
        steps = self.rungs[rung]
        self.cost += len(plans) * ((steps - after) / STEPS + SEARCH_ROWS)
        return {plan: _point(self.surrogate, plan, "search", steps, SEARCH_SEED) for plan in plans}

    def full(self, plan: Plan) -> Point:
        """The full run of a plan, on the confirm rows."""
        self.cost += 1 + JUDGED_ROWS
        return _point(self.surrogate, plan, "confirm", self.length, self.seed)

    def score(self, point: Point) -> float:
        """The metric, larger is better; the worst there is of a run that diverged."""
        return -math.inf if point.loss is None else self.surrogate.sign * float(point.scores.mean())

    def ranked(self, seen: dict[Plan, Point], by: str) -> list[Plan]:
        """Plans, the best first."""
        losses = {plan: math.inf if point.loss is None else point.loss for plan, point in seen.items()}
        order = sorted(seen, key=losses.__getitem__)
        if by == "metric":
            order.sort(key=lambda plan: -self.score(seen[plan]))
        for end in range(len(order) - 1, 0, -1) if by == "errors" else ():
            for place in range(end):
                if errors_ahead(self.surrogate, seen[order[place + 1]], seen[order[place]]) > 2:
                    order[place], order[place + 1] = order[place + 1], order[place]
        return order

    def handed(self, plan: Plan, *, n_tests: int = 1) -> Handed:
        """A plan as it is handed over, after the test rows were read so many times."""
        self.cost += n_tests * JUDGED_ROWS
        return Handed(plan, self.surrogate.metric_of_weights(plan, "test", seed=self.seed), self.cost)


Policy = Callable[[Surrogate, int], Handed]


def known(surrogate: Surrogate, entries: Sequence[Entry]) -> list[Plan]:
    """The plans that the cell has; LoRA on q and v if it has none."""
    return [surrogate.plans[e] for e in entries if e in surrogate.plans] or [surrogate.plans[Q_V, 0.5]]


def race(entries: Sequence[Entry] | None, rules: Rules, *, sampler: str = "", n_plans: int = 0) -> Policy:
    """A race of a list of plans, that of the task if none is given, and of so many with a sampler's."""

    def run(surrogate: Surrogate, seed: int) -> Handed:
        track = Track(surrogate, seed)
        plans = known(surrogate, entries or LISTS[surrogate.description.cell.task])
        seen = track.short(plans, rules.rung)
        if sampler:
            seen |= track.short(_proposed(surrogate, sampler, seed)[: n_plans - len(plans)], rules.rung)
        finalists = _finalists(track, seen, rules)
        full = {plan: track.full(plan) for plan in finalists}
        best = max(full, key=lambda plan: track.score(full[plan]))
        baselines = [plan for plan in full if is_baseline(surrogate, plan)]
        default = max(baselines, key=lambda plan: track.score(full[plan]), default=best)
        if errors_ahead(surrogate, full[best], full[default]) < rules.ahead:
            best = default
        return track.handed(best, n_tests=1 + (best != default))

    return run


def is_baseline(surrogate: Surrogate, plan: Plan) -> bool:
    """Whether people write the plan without a search."""
    return any(surrogate.plans.get(entry) == plan for entry in SWEEP)


def _finalists(track: Track, seen: dict[Plan, Point], rules: Rules) -> list[Plan]:
    surrogate, order = track.surrogate, track.ranked(seen, rules.by)
    if rules.second:
        kept = [p for p in order if is_baseline(surrogate, p)][:2]
        kept += [p for p in order if not is_baseline(surrogate, p)][:2]
        seen = track.short(kept, rules.rung + 1, after=track.rungs[rules.rung])
        order = track.ranked(seen, rules.by)
    slow = [p for p in order if p == surrogate.plans.get(HIRA) and rules.slow != "none"]
    baselines = [p for p in order if is_baseline(surrogate, p)][:1]
    others = [p for p in order if not is_baseline(surrogate, p)]
    challengers = [p for p in others if rules.slow != "challenger" or p not in slow][:1]
    if rules.slow == "leader":
        finalists = [*order[:1], *slow, *order[1:2]][:2]
    elif rules.slow == "challenger" and slow:
        behind = errors_ahead(surrogate, seen[challengers[0]], seen[slow[0]]) if challengers else 0.0
        finalists = [*baselines, *(challengers if behind > rules.far else slow)]
    else:
        slow = [p for p in slow if errors_ahead(surrogate, seen[order[0]], seen[p]) <= rules.far]
        finalists = [*baselines, *challengers, *slow]
    finalists = list(dict.fromkeys(finalists))
    return [_best_rate(track, plan, seen, rules) for plan in finalists] if rules.rates else finalists


def _best_rate(track: Track, plan: Plan, seen: dict[Plan, Point], rules: Rules) -> Plan:
    arm = track.surrogate.arm_of(plan).name
    others = [track.surrogate.plans.get((arm, rate)) for rate in RATES[:3]]
    new = [p for p in others if p is not None and p not in seen]
    return track.ranked({plan: seen[plan], **track.short(new, rules.rung)}, rules.by)[0]


@cache
def _proposed(surrogate: Surrogate, sampler: str, seed: int) -> tuple[Plan, ...]:
    """What a sampler proposes for the short rung beside one list, up to the largest search."""
    spec = RunSpec.model_validate({"budget": {"requested": surrogate.description.budget.requested}})
    problem, track = problem_of(surrogate, spec), Track(surrogate, seed)
    listed = known(surrogate, CLASSIFICATION)
    seen = track.short(listed, 1)
    with errors_alone("optuna"):
        study = optuna.create_study(sampler=_samplers(seed)[sampler])
        for _ in range(4 * max(N_PLANS)):
            if len(seen) == max(N_PLANS):
                break
            trial = study.ask()
            plan = proposed(trial, problem)
            if plan not in seen:
                seen |= track.short([plan], 1)
            loss = seen[plan].loss
            study.tell(trial, 9.0 if loss is None else loss)
    return tuple(plan for plan in seen if plan not in listed)


def _samplers(seed: int) -> dict[str, BaseSampler]:
    return {
        "random": RandomSampler(seed=seed),
        "TPE": TPESampler(seed=seed, multivariate=True, group=True),
        "GP": GPSampler(seed=seed, deterministic_objective=True),
    }


def in_full(entries: Sequence[Entry]) -> Policy:
    """Every plan in full, the best on confirm handed over."""

    def run(surrogate: Surrogate, seed: int) -> Handed:
        track = Track(surrogate, seed)
        full = {plan: track.full(plan) for plan in known(surrogate, entries)}
        return track.handed(max(full, key=lambda plan: track.score(full[plan])))

    return run


def raced_sweep(entries: Sequence[Entry], n_full: int) -> Policy:
    """Baselines in the short rung, the best of them in full, the best of those on confirm handed over."""

    def run(surrogate: Surrogate, seed: int) -> Handed:
        track = Track(surrogate, seed)
        order = track.ranked(track.short(known(surrogate, entries), 1), "errors")
        full = {plan: track.full(plan) for plan in order[:n_full]}
        return track.handed(max(full, key=lambda plan: track.score(full[plan])))

    return run


def halving(n_plans: int) -> Policy:
    """One bracket of Hyperband: random plans of the table, a third of which go on from rung to rung."""

    def run(surrogate: Surrogate, seed: int) -> Handed:
        track, after = Track(surrogate, seed), 0
        named = sorted(surrogate.plans)
        drawn = np.random.default_rng(seed).permutation(len(named))[:n_plans]
        plans = [surrogate.plans[named[i]] for i in drawn]
        for rung, steps in enumerate(track.rungs):
            if len(plans) > 1:
                plans = track.ranked(track.short(plans, rung, after=after), "loss")
                plans, after = plans[: max(1, len(plans) // 3)], steps
        track.full(plans[0])
        return track.handed(plans[0])

    return run


RULES = Rules()
POLICIES: dict[str, Policy] = {
    "sweep of eight": in_full(SWEEP),
    "sweep of two": in_full([(ALL, 0.38), (Q_V, 0.38)]),
    "LoRA on q and v": in_full([(Q_V, 0.38)]),
    "HiRA": in_full([HIRA]),
    "raced sweep of four": raced_sweep([(Q_V, rate) for rate in RATES], 1),
    "raced sweep of eight, two in full": raced_sweep(SWEEP, 2),
    "Hyperband's bracket of 8": halving(8),
    "Hyperband's bracket of 24": halving(24),
    "list in full": in_full(CLASSIFICATION),
    "race by task": race(None, RULES),
    "race of one list": race(CLASSIFICATION, RULES),
    "race of OLD": race(OLD, RULES),
    "race of eight": race(EIGHT, RULES),
    "no slow place": race(None, replace(RULES, slow="none")),
    "slow beside the leader": race(None, replace(RULES, slow="leader")),
    "three in full": race(None, replace(RULES, slow="third", far=math.inf)),
    **{f"slow unless {n} errors behind": race(None, replace(RULES, far=n)) for n in (0.0, 1.0, 4.0)},
    **{f"rung of {steps}": race(None, replace(RULES, rung=n)) for n, steps in ((0, 30), (2, 140))},
    **{f"by {what}": race(None, replace(RULES, by=what)) for what in ("loss", "metric")},
    "second rung": race(None, replace(RULES, second=True)),
    "eight, second rung": race(EIGHT, replace(RULES, second=True)),
    "raced rates": race(None, replace(RULES, rates=True)),
    **{f"ahead by {n} errors": race(None, replace(RULES, ahead=n)) for n in (1.0, 1.6, 2.0, 3.0)},
}
SAMPLERS: dict[str, Policy] = {
    f"{name} and up to {n} plans by {sampler}": race(entries, rules, sampler=sampler, n_plans=n)
    for name, entries, rules in (
        ("two baselines", CLASSIFICATION[:2], replace(RULES, slow="none")),
        ("one list", CLASSIFICATION, RULES),
    )
    for n in N_PLANS
    for sampler in ("random", "TPE", "GP")
}


def quality(surrogate: Surrogate, plan: Plan) -> float:
    """A plan's mean over the seeds, confirm and test, in points; larger is better."""
    return POINTS * surrogate.sign * sum(surrogate.metric(plan, s) for s in ("confirm", "test")) / 2


def gain(surrogate: Surrogate, handed: Sequence[Handed]) -> float:
    """Points of what is handed over above LoRA on q and v."""
    plans = [surrogate.plans[Q_V, 0.38], *(each.plan for each in handed)]
    base, *others = (quality(surrogate, plan) for plan in plans)
    return float(np.mean(others)) - base


def chosen_without(cells: Sequence[Surrogate], n_challengers: int, *, most: float = 10.0) -> list[Entry]:
    """Challengers next to the two baselines, one by one by the gain of the race; at most so much a cell."""
    baselines: list[Entry] = [(Q_V, 0.38), (ALL, 0.38)]
    counts = Counter(entry for cell in cells for entry in cell.plans)
    candidates = [e for e, n in counts.items() if e[0] not in (Q_V, ALL, "head") and n > len(cells) // 2]
    candidates += [(SCORED, rate) for rate in RATES if (SCORED, rate) in counts]
    challengers: list[Entry] = []

    def value(entry: Entry) -> float:
        return float(
            np.mean([min(most, _gain_of([*baselines, *challengers, entry], cell)) for cell in cells])
        )

    for _ in range(n_challengers):
        challengers.append(max(dict.fromkeys(e for e in candidates if e not in challengers), key=value))
    return [*baselines, *challengers]


def _gain_of(entries: Sequence[Entry], cell: Surrogate) -> float:
    return gain(cell, [race(entries, RULES)(cell, seed) for seed in range(2)])


def folds(cells: Sequence[Surrogate]) -> Iterator[str]:
    """Challengers chosen on all cells but one, and their gain on that one; the same chosen on all."""
    for n_challengers in (1, 2, 3):
        everywhere = chosen_without(cells, n_challengers)
        inside = [_gain_of(everywhere, cell) for cell in cells]
        lists = [chosen_without([c for c in cells if c is not cell], n_challengers) for cell in cells]
        outside = [_gain_of(entries, cell) for entries, cell in zip(lists, cells, strict=True)]
        counts = Counter(entry for entries in lists for entry in entries[2:])
        yield (
            f"{n_challengers} challengers: {everywhere[2:]}; in-sample {np.mean(inside):.2f} "
            f"{np.round(inside, 1)}, "
            f"left out {np.mean(outside):.2f} {np.round(outside, 1)}; in the folds {dict(counts)}"
        )


def main() -> None:
    """Print cost, regret and gain of every policy."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tables", type=Path, default=HERE / "tables")
    parser.add_argument("--seeds", type=int, default=8, help="full runs were measured with two seeds")
    parser.add_argument("--cells", nargs="+", default=SIX)
    parser.add_argument("--lists", action="store_true", help="choose lists, leaving out each cell in turn")
    parser.add_argument("--samplers", action="store_true", help="let Optuna propose further plans")
    given = parser.parse_args()
    cells = [surrogate_of(given.tables / cell) for cell in given.cells]
    if given.lists:
        print(*folds(cells), sep="\n")
        return
    print(f"| policy | R | at most | regret | gain | {' | '.join(given.cells)} |")
    print(f"|---|---:|---:|---:|---:|{'---:|' * len(given.cells)}")
    for name, policy in (SAMPLERS if given.samplers else POLICIES).items():
        regrets, costs, gains = [], [], []
        for cell in cells:
            handed = [policy(cell, seed) for seed in range(given.seeds)]
            gaps = [POINTS * cell.sign * (best_metrics(cell)[0] - each.test) for each in handed]
            regrets.append(float(np.mean(gaps)))
            gains.append(gain(cell, handed))
            costs.append([each.cost for each in handed])
        by_cell = " | ".join(f"{regret:.1f}" for regret in regrets)
        print(
            f"| {name} | {np.mean([np.mean(c) for c in costs]):.2f} | {max(map(max, costs)):.2f} "
            f"| {np.mean(regrets):.2f} | {np.mean(gains):.2f} | {by_cell} |",
            flush=True,
        )


if __name__ == "__main__":
    main()

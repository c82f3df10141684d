"""The engine's rungs on published learning curves, against plain halving, top-K, random search, Hyperband.

    python reports/studies/replay_rungs.py CURVES.jsonl [N_HALVES]

The file holds, one JSON object a line, the 63 runs of peft's method comparison on MetaMathQA with
Llama-3.2-3B (July 2026): the train loss of 20 windows of 250 steps, and the final accuracy on GSM8K's test
split. A run is not trained at a rung: its loss is looked up in the file. `autopeft.engine.climb` decides, as
in a search. A policy sees a random half of the runs and may spend 5, 10 or 15 % of the cost of training that
whole half. Its regret is the half's best final accuracy less that of the chosen run, in points.

`ours, portfolio first` orders the first rung by what is known of a run's method from all other runs of the
file, the run itself left out: their mean accuracy, drawn towards that of all runs as by one run. It starts
with four fifths of the half.
"""

from __future__ import annotations

import json
import logging
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import optuna
from scipy import stats

from autopeft import engine
from autopeft.cli.progress import Silent
from autopeft.engine import Ledger, Schedule, SearchProblem
from autopeft.executors import Serial
from autopeft.extension import discover
from autopeft.records import Adapter, Fidelity, Measurement, MetricFacts, Plan, RunSpec, Status
from autopeft.space import AllocationContext, Space

WINDOW, FULL = 250, 5000
COSTS = (0.05, 0.10, 0.15)
_PORTFOLIO_SHARE = 0.8  # of the runs; 0.5 to 0.8 differ little


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One published run: its loss by window and its final accuracy."""

    plan: Plan
    losses: tuple[float, ...]
    accuracy: float
    expected: float = 0.0  # accuracy, by the other runs

    def loss(self, steps: int) -> float:
        """Mean train loss of the window that ends at a step."""
        return self.losses[steps // WINDOW - 1]


def read(path: Path) -> list[Curve]:
    """The table; a run is a plan of one adapter that carries its name."""
    curves = []
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        plan = Plan(
            adapters=(Adapter(method=row["name"], site="published"),),
            learning_rate=row["learning_rate"] or 1.0,
            trainable_params=row["trainable_params"],
        )
        losses = tuple(window["train_loss"] for window in row["curve"])
        curves.append(Curve(plan=plan, losses=losses, accuracy=row["test_accuracy"]))
    return [replace(curve, expected=expected(curve, curves)) for curve in curves]


def expected(curve: Curve, curves: Sequence[Curve]) -> float:
    """Accuracy to expect of a run from the other runs of its method, else from all others."""
    others = [other for other in curves if other is not curve]
    same = [other.accuracy for other in others if method_of(other) == method_of(curve)]
    return (np.mean([other.accuracy for other in others]).item() + sum(same)) / (1 + len(same))


def method_of(curve: Curve) -> str:
    """The part of a run's name before its model."""
    return curve.plan.adapters[0].method.split("--")[0]


class Replay:
    """Measures by looking up; counts the steps that a resumed run would add."""

    def __init__(self, curves: Sequence[Curve]) -> None:
        """A replay in which nothing is measured yet."""
        self.curves = {curve.plan: curve for curve in curves}
        self.trained: dict[Plan, int] = {}

    def measure(self, plan: Plan, fidelity: Fidelity) -> Measurement:
        """The loss of the window that ends where the rung does."""
        before = self.trained.get(plan, 0)
        self.trained[plan] = max(before, fidelity.train_steps)
        loss = self.curves[plan].loss(fidelity.train_steps)
        return Measurement(
            plan=plan,
            fidelity=fidelity,
            status=Status.COMPLETE,
            metric=0.0,
            loss=loss,
            trained_steps=self.trained[plan] - before,
        )

    @property
    def cost(self) -> float:
        """Cost so far, as a share of training every run in full."""
        return sum(self.trained.values()) / (FULL * len(self.curves))


def ours(curves: Sequence[Curve], cost: float, rng: np.random.Generator) -> tuple[Curve, float]:
    """The engine's rungs, as wide and long as `stretched` makes them for the cost.

    The first rung takes all runs, or as many as two thirds of the cost pay for. The file has no baseline,
    no head alone and no budget, so only the random sentinel is promoted beside the best.
    """
    budget = cost * len(curves)
    n_first = min(len(curves), int(budget / 1.5 * FULL / WINDOW))
    taken = [curves[i] for i in sorted(rng.permutation(len(curves))[:n_first])]
    schedule = Schedule(
        rung_steps=(WINDOW, 2 * WINDOW),
        full_steps=FULL,
        confirm_steps=FULL,
        batch_size=4,
        n_search=1,
        n_confirm=0,
        n_test=0,
        beside=(1, 2),  # of a third rung: those that a low rank correlation adds
    )
    schedule = engine.stretched(schedule, n_first=n_first, max_cost=budget, n_retuned=0)
    steps = sorted({max(WINDOW, WINDOW * (n // WINDOW)) for n in schedule.rung_steps})
    schedule = replace(schedule, rung_steps=tuple(steps))
    world = Replay(curves)
    problem = SearchProblem(
        spec=RunSpec(),
        space=Space(about="published runs"),
        context=AllocationContext(
            sites=(),
            scores={},
            methods=discover("autopeft.methods"),
            max_params=10**12,  # none is refused, and none counts as small
        ),
        schedule=schedule,
        metric=MetricFacts(name="accuracy", greater_is_better=True, is_share=True, score_span=1.0),
        head_rates=(1e-3, 1.0),
        first_trials=n_first,
    )
    ledger = Ledger(executor=Serial(), measure=world.measure, progress=Silent())
    fidelity = schedule.rung(0, seed=problem.seed)
    first = {m.plan: m for m in ledger.measure_all([(curve.plan, fidelity) for curve in taken])}
    last = engine.climb(problem, ledger, first)[-1]
    best = min(last.values(), key=lambda m: (m.loss, m.plan.digest))
    return world.curves[best.plan], world.cost


def ours_by_portfolio(curves: Sequence[Curve], cost: float, rng: np.random.Generator) -> tuple[Curve, float]:
    """As `ours`, among the runs of which most is expected; what it spends is a share of all runs."""
    order = sorted(curves, key=lambda curve: -curve.expected)
    n_taken = min(round(_PORTFOLIO_SHARE * len(curves)), int(cost * len(curves) / 1.5 * FULL / WINDOW))
    share = n_taken / len(curves)
    chosen, spent = ours(order[:n_taken], cost / share, rng)
    return chosen, spent * share


def halving(curves: Sequence[Curve], cost: float, rng: np.random.Generator) -> tuple[Curve, float]:
    """Plain halving: 250, 500, 1,000, then all 5,000 steps; of 63 it keeps 16, 6 and 3.

    For another number of runs the widths are in proportion. It takes as many runs as the cost pays for,
    and trains more of them in full where cost is left.
    """
    budget = cost * FULL * len(curves)

    def spent(n: int, n_full: int | None = None) -> tuple[int, list[int]]:
        keeps = [max(1, round(n * share / 63)) for share in (16, 6, 3)]
        keeps[2] = n_full or keeps[2]
        return n * 250 + keeps[0] * 250 + keeps[1] * 500 + keeps[2] * 4000, keeps

    n_first = max(n for n in range(1, len(curves) + 1) if n == 1 or spent(n)[0] <= budget)
    total, keeps = spent(n_first)
    while keeps[2] < keeps[1] and spent(n_first, keeps[2] + 1)[0] <= budget:
        total, keeps = spent(n_first, keeps[2] + 1)
    alive = [curves[i] for i in rng.permutation(len(curves))[:n_first]]
    for steps, keep in zip((250, 500, 1000), keeps, strict=True):
        alive = sorted(alive, key=lambda c, steps=steps: c.loss(steps))[:keep]
    return min(alive, key=lambda c: c.loss(FULL)), total / FULL / len(curves)


def random_search(curves: Sequence[Curve], cost: float, rng: np.random.Generator) -> tuple[Curve, float]:
    """As many full runs as the cost pays for; the best is the one with the lowest final loss."""
    n = max(1, int(cost * len(curves)))
    taken = [curves[i] for i in rng.permutation(len(curves))[:n]]
    return min(taken, key=lambda c: c.loss(FULL)), n / len(curves)


def top_k(curves: Sequence[Curve], cost: float, rng: np.random.Generator) -> tuple[Curve, float]:
    """One rung of 250 steps, then its best in full: as many as the cost pays for, at least one."""
    budget = cost * FULL * len(curves)
    n = min(len(curves), max(1, int((budget - (FULL - WINDOW)) // WINDOW)))
    taken = sorted((curves[i] for i in rng.permutation(len(curves))[:n]), key=lambda c: c.loss(WINDOW))
    k = max(1, int((budget - n * WINDOW) // (FULL - WINDOW)))
    return min(taken[:k], key=lambda c: c.loss(FULL)), (n * WINDOW + k * (FULL - WINDOW)) / FULL / len(curves)


def hyperband(curves: Sequence[Curve], cost: float, rng: np.random.Generator) -> tuple[Curve, float]:
    """Optuna's HyperbandPruner over random runs, until the cost is spent; the best by its last loss.

    Only runs that were trained longest are compared, since a run that was pruned early has a higher loss.
    """
    seed = int(rng.integers(2**31))
    pruner = optuna.pruners.HyperbandPruner(min_resource=1, max_resource=FULL // WINDOW, reduction_factor=3)
    study = optuna.create_study(study_name=f"replay-{seed}", pruner=pruner, direction="minimize")
    left, reached = round(cost * FULL * len(curves)), {}
    for index in rng.permutation(len(curves)):
        curve, trial = curves[index], study.ask()
        pruned = False
        for window in range(1, FULL // WINDOW + 1):
            if left < WINDOW:
                break
            left -= WINDOW
            reached[index] = window
            trial.report(curve.loss(window * WINDOW), window)
            if trial.should_prune():
                pruned = True
                break
        if left < WINDOW:
            break
        if pruned:
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        else:
            study.tell(trial, curve.loss(FULL))
    best = max(reached, key=lambda i: (reached[i], -curves[i].loss(reached[i] * WINDOW)))
    return curves[best], sum(reached.values()) * WINDOW / FULL / len(curves)


Policy = Callable[[Sequence[Curve], float, np.random.Generator], tuple[Curve, float]]
POLICIES: dict[str, Policy] = {
    "ours": ours,
    "ours, portfolio first": ours_by_portfolio,
    "plain halving": halving,
    "top-K after one rung": top_k,
    "random search": random_search,
    "Optuna's Hyperband": hyperband,
}


def regrets(curves: Sequence[Curve], cost: float, n_halves: int) -> dict[str, list[tuple[float, float]]]:
    """Regret in points and share of the cost of each policy on each half."""
    by_policy: dict[str, list[tuple[float, float]]] = {name: [] for name in POLICIES}
    for seed in range(n_halves):
        half = [curves[i] for i in np.random.default_rng(seed).permutation(len(curves))[: len(curves) // 2]]
        best = max(curve.accuracy for curve in half)
        for name, policy in POLICIES.items():
            chosen, spent = policy(half, cost, np.random.default_rng([seed, 1]))
            by_policy[name].append((100 * (best - chosen.accuracy), spent))
    return by_policy


def main(path: Path, n_halves: int) -> None:
    """Print the table of regrets and of paired differences."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    logging.disable(logging.WARNING)
    curves = read(path)
    print(f"{len(curves)} runs, {n_halves} random halves; regret in points, with 95 % intervals")
    print("| cost | policy | spent | mean regret | ours minus it |\n| --- | --- | --- | --- | --- |")
    for cost in COSTS:
        by_policy = regrets(curves, cost, n_halves)
        for name, rows in by_policy.items():
            regret, spent = (np.array(column) for column in zip(*rows, strict=True))
            difference = np.array([row[0] for row in by_policy["ours"]]) - regret
            interval = ""
            if name != "ours":
                half = stats.t.ppf(0.975, n_halves - 1) * difference.std(ddof=1) / math.sqrt(n_halves)
                low, high = difference.mean() - half, difference.mean() + half
                interval = f"{difference.mean():+.2f} ({low:+.2f} to {high:+.2f})"
            print(f"| {cost:.0%} | {name} | {spent.mean():.1%} | {regret.mean():.2f} | {interval} |")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 200)

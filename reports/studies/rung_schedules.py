"""Which learning-rate schedule makes a short rung rank plans as their full runs do.

    python reports/studies/rung_schedules.py OUT.csv N_PLANS DATA [DATA ...]

Random policies of the default space at 0.5 % of MiniLM-L6. Each is trained in full (two epochs) on fresh
seeds and scored on the confirm split. Each is also trained as rungs of a sixth and of two fifths of that
length and scored on the search split, under four schedules:

- restart: decayed to 0 at the first rung and resumed with a new warm-up, as in a search;
- branch: a constant rate and a decay over the last quarter; it can be paused and resumed before the decay;
- cut: the schedule of the full run, stopped early; it can be paused too;
- anneal: a short run that decays to 0; it cannot be resumed.

Rows that OUT.csv holds are not measured again. `--summary OUT.csv` prints Spearman's rho of the rungs'
losses with the full runs' losses and metrics, and the learning rates that each would choose.
"""

from __future__ import annotations

import csv
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import optuna

from autopeft import space
from autopeft.evidence import rank_correlation
from autopeft.pipeline.fitting import fit_to_budget
from autopeft.pipeline.prepare import prepare
from autopeft.pipeline.scoring import sensitivity
from autopeft.records import DataSpec, EvaluatedSplit, Fidelity, Plan, RunSpec, TaskSpec
from autopeft.train import bench, rate_schedule

FIELDS = ("data", "plan", "arm", "learning_rate", "params", "schedule", "steps", "seed", "loss", "metric")
FULL_SEEDS = (1, 2)


@dataclass(frozen=True)
class Shaped:
    """A schedule of another shape: shares of the peak rate by step."""

    n_steps: int
    shape: Callable[[int], float]

    @property
    def ends(self) -> tuple[int, ...]:
        """One leg, as far as pausing goes."""
        return (self.n_steps,)

    def multiplier(self, step: int) -> float:
        """The share of the peak at a step."""
        return self.shape(step)


def branch(n_steps: int, *, warmup: int) -> Shaped:
    """Constant after a warm-up, then a linear decay over the last quarter."""
    start = n_steps - max(1, round(0.25 * n_steps))

    def shape(step: int) -> float:
        decay = 1.0 if step < start else (n_steps - step) / (n_steps - start)
        return min((step + 1) / warmup, decay)

    return Shaped(n_steps, shape)


def schedules(full_steps: int) -> dict[str, Callable[[int], Any]]:
    """Each schedule as a function of a rung's steps."""
    first = round(full_steps / 6)
    return {
        "restart": lambda n: rate_schedule(n, rung_steps=(first,)),
        "branch": lambda n: branch(n, warmup=max(1, round(0.2 * first))),
        "cut": lambda n: Shaped(n, rate_schedule(full_steps).multiplier),
        "anneal": rate_schedule,
    }


def plans(prepared, n: int) -> list[tuple[str, Plan]]:
    """Random policies of the default space with their arms."""
    search_space = space.load("default", known_methods=prepared.methods)
    sensitivities = sensitivity(prepared, ["gradient"], max_examples=128)
    scores = dict(zip((s.name for s in prepared.base.sites), sensitivities.scores[0].values, strict=True))
    feasible, context = fit_to_budget(prepared, search_space)
    context = context.with_scores(scores, {})
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=5))
    policies = [space.suggest(study.ask(), feasible, prepared.methods) for _ in range(n)]
    return [(str(policy.arm), space.plan_of(policy, context)) for policy in policies]


def rows(source: str, n_plans: int, done: set[tuple[str, ...]]) -> Iterator[tuple[object, ...]]:
    """One row for each run that is not done yet."""
    prepared = prepare(RunSpec(data=DataSpec(source=source), task=TaskSpec(epochs=2.0)))
    full, size = prepared.full_steps, prepared.bench.batch_size
    runs: list[tuple[str, int, EvaluatedSplit, int, Callable[[int], Any]]]
    runs = [("full", full, "confirm", seed, rate_schedule) for seed in FULL_SEEDS]
    for share in (1 / 6, 2 / 5):
        runs += [
            (name, round(share * full), "search", 0, schedule) for name, schedule in schedules(full).items()
        ]
    for arm, plan in plans(prepared, n_plans):
        for name, steps, split, seed, schedule in runs:
            key = (Path(source).name, plan.digest, name, str(steps), str(seed))
            if key in done:
                continue
            fidelity = Fidelity(
                split=split,
                train_steps=steps,
                train_examples=steps * size,
                eval_examples=len(prepared.bench.splits[split].labels),
                seed=seed,
            )
            with mock.patch.object(bench, "rate_schedule", lambda n, rung_steps, of=schedule: of(n)):
                seen = prepared.bench.measure(plan, fidelity)
            about_plan = (arm, f"{plan.learning_rate:g}", plan.trainable_params)
            yield (*key[:2], *about_plan, *key[2:], 9.0 if seen.loss is None else seen.loss, seen.metric)


def summary(out: Path) -> None:
    """Rank correlations by data, schedule and length."""
    full: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    short: dict[tuple[str, str, str], dict[str, float]] = defaultdict(dict)
    rates: dict[str, str] = {}
    with out.open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            rates[row["plan"]] = f"{row['arm']} at {row['learning_rate']}"
            if row["schedule"] == "full":
                full[row["data"], row["plan"]].append((float(row["loss"]), float(row["metric"] or "nan")))
            else:
                short[row["data"], row["steps"], row["schedule"]][row["plan"]] = float(row["loss"])
    for (data, steps, schedule), losses in sorted(short.items()):
        both = [plan for plan in losses if len(full[data, plan]) == len(FULL_SEEDS)]
        loss = [sum(loss for loss, _ in full[data, plan]) / len(FULL_SEEDS) for plan in both]
        error = [-sum(metric for _, metric in full[data, plan]) / len(FULL_SEEDS) for plan in both]
        rung_losses = [losses[plan] for plan in both]
        if len(both) > 2:
            best = min(both, key=lambda plan: losses[plan])
            gap = max(-e for e in error) + error[both.index(best)]
            with_loss, with_metric = rank_correlation(rung_losses, loss), rank_correlation(rung_losses, error)
            print(
                f"| {data} | {steps} | {schedule} | {len(both)} | {with_loss:.2f} | {with_metric:.2f} "
                f"| {rates[best]} | {100 * gap:.1f} |"
            )


def main(out: Path, n_plans: int, sources: list[str]) -> None:
    """Measure what is missing."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    done: set[tuple[str, ...]] = set()
    if out.exists():
        with out.open(encoding="utf-8") as file:
            done = {
                tuple(row[name] for name in ("data", "plan", "schedule", "steps", "seed"))
                for row in csv.DictReader(file)
            }
    for source in sources:
        for row in rows(source, n_plans, done):
            is_new = not out.exists()
            with out.open("a", newline="", encoding="utf-8") as file:
                csv.writer(file).writerows([FIELDS, row] if is_new else [row])


if __name__ == "__main__":
    if sys.argv[1] == "--summary":
        summary(Path(sys.argv[2]))
    else:
        main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])

"""Compare the judged adapter of a search with sweeps of LoRA, both in autopeft's trainer, on test files.

    python benchmarks/studies/race_gains.py OUT.csv --data FOLDER [--sets NAME …] [--budgets 0.1% 0.5%]

A row `search` is a search at its default settings (MiniLM-L6 without `--model`): score on the test split and
cost by the clock. Rows `sweep` are LoRA on all linear layers and on q and v, each at two positions of its
learning rates, trained in full with the seed of the search. Rows that OUT.csv has are not measured again.
With `--sizes N` a search also finds plans for smaller budgets, one row each; the difference from the plan at
the full budget is the verdict. Their cost is not part of the search's.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from autopeft import commands
from autopeft.report.progress import Lines
from autopeft.setup.build import prepare
from autopeft.setup.feasible import fit_to_budget, requested_space
from autopeft.space import ListedPlan, listed_policies, plan_of
from autopeft.types import (
    BudgetSpec,
    DataSpec,
    Fidelity,
    ModelSpec,
    OutputSpec,
    RunSpec,
    SearchSpec,
    TaskSpec,
)

BATCH_SIZE = 16
TAGS = ("snips_slots", "wnut17")
SETS = ("snips_slots", "banking77", "stsb", "med", "snips_intent", "wnut17")
RATES = (0.38, 0.62)
FIELDS = "data budget steps seed what plan params confirm test r seconds verdict".split()


def spec_of(
    source: Path, budget: str, *, n_steps: int, seed: int, out: Path, sizes: int = 1, model: str | None = None
) -> RunSpec:
    """Return the settings of a cell; the demo's MiniLM-L6 without a model."""
    name = "token-classification" if source.name in TAGS else "text-classification"
    return RunSpec(
        model=ModelSpec(id=model),
        data=DataSpec(source=str(source)),
        task=TaskSpec(name=name, max_steps=n_steps, batch_size=BATCH_SIZE),
        budget=BudgetSpec(requested=budget),
        search=SearchSpec(seed=seed, sizes=sizes),
        output=OutputSpec(out=str(out)),
    )


def searched(spec: RunSpec) -> list[list[object]]:
    """Return a row for the result of the search, and one for each smaller plan."""
    result, path = commands.run_search(spec, progress=Lines())
    full = {run.plan: run for run in result.full_runs}[result.best]
    # The search reads as many test rows as fit into a tenth of a full run, a sweep reads all.
    bench = replace(prepare(spec).bench, keep_weights=lambda plan, seed: path / "best" / "weights")
    n_rows = len(bench.splits["test"].labels)
    fidelity = Fidelity(
        split="test", train_steps=1, train_examples=1, eval_examples=n_rows, seed=spec.search.seed
    )
    test = bench.measure(result.best, fidelity)
    arm = next((p.arm for p in result.proposals if p.plan == result.best), "")
    cost = result.cost
    seconds = cost.total_seconds - cost.sizes_seconds
    best = [
        *("search", arm, result.best.trainable_params, full.metric_mean, test.metric),
        *(seconds / cost.full_run_seconds, seconds, result.verdict.label),
    ]
    smaller = [
        [
            *(f"size {step.share:g}", step.arm, step.plan.trainable_params, step.metric_mean, ""),
            *(step.seconds / cost.full_run_seconds, step.seconds),
            f"{step.mean_difference:+.4f} ({step.interval_95[0]:+.4f} to {step.interval_95[1]:+.4f})",
        ]
        for step in result.sizes
    ]
    return [best, *smaller]


def swept(spec: RunSpec, folder: Path, rates: Sequence[float]) -> Iterator[list[object]]:
    """Yield a row for each run of a sweep over placements and rates."""
    prepared = prepare(spec)
    feasible, context = fit_to_budget(prepared.spec, prepared.base, requested_space(spec))
    lengths = prepared.lengths
    bench = replace(prepared.bench, keep_weights=lambda plan, seed: folder / plan.digest)
    entries = [
        ListedPlan(method="lora", placement=placement, rate=rate, baseline=True)
        for placement in ("q+v", "all")
        for rate in rates
    ]
    family = prepared.task.defaults.family
    space = feasible.model_copy(update={"listed": {family: tuple(entries)}})
    baselines = [each for each in listed_policies(space, family, context) if each[0].kind == "baseline"]
    for (arm, policy), entry in zip(baselines, entries, strict=True):
        plan = plan_of(policy, context)
        seed = spec.search.seed
        full, test = (bench.measure(plan, at) for at in (lengths.full(seed=seed), lengths.test(seed=seed)))
        seconds = full.total_seconds + test.total_seconds
        yield [
            "sweep",
            f"{arm} at {entry.rate}",
            plan.trainable_params,
            full.metric,
            test.metric,
            1,
            seconds,
            "",
        ]


def main() -> None:
    """Measure what the table does not have yet."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", help="A folder or hub id instead of MiniLM-L6.")
    parser.add_argument("--sets", nargs="+", default=SETS)
    parser.add_argument("--budgets", nargs="+", default=["0.1%", "0.5%"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--sizes", type=int, default=1)
    parser.add_argument("--rates", type=float, nargs="+", default=RATES, help="Positions of the sweep.")
    parser.add_argument("--only", choices=("search", "sweep"), help="Only searches, or only sweeps.")
    given = parser.parse_args()
    torch.set_num_threads(1)
    done = set()
    if given.out.exists():
        with given.out.open(encoding="utf-8") as file:
            done = {(r["data"], r["budget"], r["steps"], r["seed"], r["what"]) for r in csv.DictReader(file)}
    cells = [(seed, budget, name) for seed in given.seeds for budget in given.budgets for name in given.sets]
    for seed, budget, name in cells:
        for what in (given.only,) if given.only else ("search", "sweep"):
            key = (name, budget, str(given.steps), str(seed))
            if (*key, what) in done:
                continue
            with tempfile.TemporaryDirectory() as folder:
                spec = spec_of(
                    given.data / name,
                    budget,
                    n_steps=given.steps,
                    seed=seed,
                    out=Path(folder) / "run",
                    sizes=given.sizes,
                    model=given.model,
                )
                rows = searched(spec) if what == "search" else list(swept(spec, Path(folder), given.rates))
            is_new = not given.out.exists()
            with given.out.open("a", newline="", encoding="utf-8") as file:
                csv.writer(file).writerows([FIELDS] * is_new + [[*key, *row] for row in rows])


if __name__ == "__main__":
    main()

"""The gain of a search over a learning-rate sweep, on test files, by a training loop of its own.

    python reports/studies/real_gains.py OUT_DIR --data FOLDER --sets NAME ... [--budgets 0.1%] [--steps 300]
    python reports/studies/real_gains.py OUT_DIR --summary

For each set and budget the search runs at its default settings (MiniLM-L6; only steps and batch size are
given) and hands over the best and the smallest plan. Beside it stands what people do: LoRA on all linear
maps and on q and v, each of the size of the budget, each at four learning rates, trained once in full; the
run with the best metric on the confirm split wins. With `--ceiling` other usual arms are swept too. Then
the two plans, the winner of the sweep, and with `--ceiling` the winner among all arms, are trained with
five fresh seeds and scored on the test file, which neither search nor sweep has read. Both work on the rows
that the search trains on. `outside_loop.py` trains and scores. Rows in `gains.csv` and `sweep.csv` of
OUT_DIR are not computed again.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from outside_loop import Run, predictions, score, t_half_width
from scipy import stats

from autopeft import pipeline, space
from autopeft.cli.progress import Silent
from autopeft.data import LabelledData, load, read_texts, read_tokens
from autopeft.model import BaseModel
from autopeft.model import load as load_model
from autopeft.pipeline.prepare import prepare
from autopeft.pipeline.problem import fit_to_budget, requested_space
from autopeft.records import (
    BudgetSpec,
    DataSpec,
    ModelSpec,
    OutputSpec,
    Plan,
    RunSpec,
    SearchResult,
    TaskSpec,
)
from autopeft.space import AllocationContext, Policy
from autopeft.store import RunDir

SEEDS, SWEEP_SEED = (101, 102, 103, 104, 105), 100
POSITIONS = (0.15, 0.38, 0.62, 0.85)  # of the rates of a sweep, in a method's range
BATCH_SIZE = 16
TAGGED = ("wnut17", "snips_slots")
GAIN_FIELDS = (
    *("data", "budget", "role", "arm", "params", "learning_rate", "seed", "metric", "score"),
    *("search_r", "verdict"),
)
SWEEP_FIELDS = ("data", "budget", "arm", "position", "learning_rate", "params", "metric", "score")


@dataclass(frozen=True)
class Cell:
    """A set and a budget, and what every run of it needs."""

    name: str
    budget: str
    spec: RunSpec
    result: SearchResult
    data: LabelledData
    base: BaseModel
    n_steps: int

    def score(self, plan: Plan, *, seed: int, is_test: bool) -> float:
        """A plan's metric on test or on confirm, after a full run."""
        split = self.data.test if is_test else self.data.confirm
        run = Run(n_steps=self.n_steps, batch_size=BATCH_SIZE, seed=seed)
        predicted = predictions(plan, self.base, self.data, split, run)
        return score(self.result.setting.metric, self.data, split, predicted)


def searched(spec: RunSpec) -> SearchResult:
    """The result of a search, run now or read from the folder."""
    out = Path(str(spec.output.out))
    if (out / "result.json").is_file():
        return RunDir.open(out).load_result()
    given = frozenset({"task.max_steps", "task.batch_size", "task.name", "data.source", "budget.requested"})
    return pipeline.search(spec, given=given, resume=out.is_dir(), progress=Silent())[0]


def cell_of(source: Path, budget: str, *, out: Path, n_steps: int) -> Cell:
    """A cell after its search."""
    is_tagged = source.name in TAGGED
    task = "token-classification" if is_tagged else "text-classification"
    spec = RunSpec(
        data=DataSpec(source=str(source)),
        task=TaskSpec(name=task, max_steps=n_steps, batch_size=BATCH_SIZE),
        budget=BudgetSpec(requested=budget),
        output=OutputSpec(out=str(out / f"{source.name}-{budget.rstrip('%')}")),
    )
    result = searched(spec)
    data = load(spec.data, seed=spec.search.seed, read_rows=read_tokens if is_tagged else read_texts)
    kind = "Token" if is_tagged else "Sequence"
    auto_class = f"AutoModelFor{kind}Classification"
    base = load_model(ModelSpec(), auto_class=auto_class, label_names=data.label_names)
    return Cell(source.name, budget, spec, result, data, base, n_steps)


def context_of(spec: RunSpec) -> AllocationContext:
    """What an allocation under the budget needs."""
    with tempfile.TemporaryDirectory() as folder:
        fresh = spec.model_copy(update={"output": OutputSpec(out=folder)})
        return fit_to_budget(prepare(fresh), requested_space(fresh))[1]


def arms_of(context: AllocationContext, *, ceiling: bool) -> Mapping[str, Policy]:
    """The arms of a sweep by name; the LoRAs that people write first."""
    arms = dict(space.baseline_policies(context, learning_rate=1.0))
    if ceiling:
        names = ("IA3", "RoAd", "HiRA", "LoRA, IA3, norms", "norms", "LoRA in MLPs", "BitFit")
        arms |= dict(zip(names, space.usual_policies(learning_rate=1.0), strict=True))
    return arms


def sweep(cell: Cell, table: Path, *, ceiling: bool) -> Mapping[str, list[tuple[float, Plan]]]:
    """The score on confirm of every arm at every rate, with its plan; what the table lacks is measured."""
    known = {(row["arm"], row["position"]): row for row in rows_in(table, cell)}
    context = context_of(cell.spec)
    swept: dict[str, list[tuple[float, Plan]]] = defaultdict(list)
    for arm, policy in arms_of(context, ceiling=ceiling).items():
        low, high = context.methods[policy.method].learning_rate_range
        for position in POSITIONS:
            rate = low * (high / low) ** position
            plan = space.plan_of(replace(policy, learning_rate=rate), context)
            if not plan.adapters:
                continue
            row = known.get((arm, str(position)))
            value = float(row["score"]) if row else cell.score(plan, seed=SWEEP_SEED, is_test=False)
            swept[arm].append((value, plan))
            if row is None:
                keys = (cell.name, cell.budget, arm, position, f"{rate:.4g}", plan.trainable_params)
                append(table, SWEEP_FIELDS, (*keys, cell.result.setting.metric, f"{value:.5f}"))
    return swept


def winner(swept: Mapping[str, list[tuple[float, Plan]]], arms: Sequence[str]) -> tuple[str, Plan]:
    """The arm and plan with the best score."""
    return max(
        ((score, arm, plan) for arm in arms for score, plan in swept[arm]), key=lambda entry: entry[0]
    )[1:]


def roles_of(cell: Cell, swept: Mapping[str, list[tuple[float, Plan]]]) -> Iterator[tuple[str, str, Plan]]:
    """Role, arm and plan of everything that is trained with fresh seeds."""
    result = cell.result
    arm_of = {proposal.plan: str(proposal.arm) for proposal in result.proposals}
    yield "best", arm_of[result.best], result.best
    yield "smallest", arm_of[result.smallest], result.smallest
    loras = [arm for arm in swept if arm.startswith("LoRA on")]
    yield ("sweep", *winner(swept, loras))
    if len(swept) > len(loras):
        yield ("ceiling", *winner(swept, list(swept)))


def measure(cell: Cell, out: Path, *, ceiling: bool, n_seeds: int) -> None:
    """Sweep, then train every role with fresh seeds; equal plans once."""
    table = out / "gains.csv"
    known = {(row["role"], row["seed"]): row["score"] for row in rows_in(table, cell)}
    scores: dict[tuple[Plan, int], float] = {}
    for role, arm, plan in roles_of(cell, sweep(cell, out / "sweep.csv", ceiling=ceiling)):
        for seed in SEEDS[:n_seeds]:
            if (role, str(seed)) in known:
                scores[plan, seed] = float(known[role, str(seed)])
                continue
            if (plan, seed) not in scores:
                scores[plan, seed] = cell.score(plan, seed=seed, is_test=True)
            result = cell.result
            keys = (
                cell.name,
                cell.budget,
                role,
                arm,
                plan.trainable_params,
                f"{plan.learning_rate:.4g}",
                seed,
            )
            cost = f"{result.cost.total_full_runs:.2f}"
            value = f"{scores[plan, seed]:.5f}"
            row = (*keys, result.setting.metric, value, cost, result.verdict.label)
            append(table, GAIN_FIELDS, row)


def rows_in(table: Path, cell: Cell) -> list[dict[str, str]]:
    """The rows of a cell that a table holds."""
    if not table.exists():
        return []
    with table.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [row for row in rows if (row["data"], row["budget"]) == (cell.name, cell.budget)]


def append(table: Path, header: Sequence[str], row: Sequence[object]) -> None:
    """Add a row to a table."""
    is_new = not table.exists()
    with table.open("a", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, row] if is_new else [row])


def summary(table: Path) -> str:
    """Best, smallest and ceiling against the sweep, paired by seed, with the mean over the cells."""
    cells: dict[tuple[str, str], dict[str, dict[str, dict[str, str]]]] = defaultdict(
        lambda: defaultdict(dict)
    )
    with table.open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            cells[row["data"], row["budget"]][row["role"]][row["seed"]] = row
    lines = [
        "| set | budget | plan | arm | parameters | metric | test | less the sweep's | verdict | R |",
        "|---|---|---|---|---:|---|---:|---:|---|---:|",
    ]
    with table.with_name("sweep.csv").open(encoding="utf-8") as file:
        swept = Counter((row["data"], row["budget"]) for row in csv.DictReader(file) if "LoRA" in row["arm"])
    gaps: dict[str, list[float]] = defaultdict(list)
    for (data, budget), roles in sorted(cells.items()):
        for role, rows in roles.items():
            scores = np.array([100 * float(row["score"]) for row in rows.values()])
            paired = [100 * (float(rows[s]["score"]) - float(roles["sweep"][s]["score"])) for s in rows]
            first, difference = next(iter(rows.values())), np.array(paired)
            gaps[role].append(float(difference.mean()))
            half = t_half_width(difference)
            shown = "" if role == "sweep" else f"{difference.mean():+.1f} ± {half:.1f}"
            costs = {"best": first["search_r"], "sweep": f"{swept[data, budget]}.0"}
            cells_of_row = (
                *(data, budget, role, first["arm"], f"{int(first['params']):,}", first["metric"]),
                *(
                    f"{scores.mean():.1f}",
                    shown,
                    first["verdict"] if role == "best" else "",
                    costs.get(role, ""),
                ),
            )
            lines.append(f"| {' | '.join(cells_of_row)} |")
    for role, means in gaps.items():
        if role != "sweep" and len(means) > 1:
            values = np.array(means)
            p = float(stats.ttest_1samp(values, 0.0).pvalue) if values.any() else 1.0
            mean, half = values.mean(), t_half_width(values)
            lines += [
                "",
                f"{role} less the sweep, over {len(means)} cells: {mean:+.2f} ± {half:.2f} points, from "
                f"{values.min():+.1f} to {values.max():+.1f} (p = {p:.2f}).",
            ]
    return "\n".join(lines)


def main() -> None:
    """Search, sweep and measure what is missing, or print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--sets", nargs="+", default=[])
    parser.add_argument("--budgets", nargs="+", default=["0.1%"])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=len(SEEDS), choices=range(1, len(SEEDS) + 1))
    parser.add_argument("--ceiling", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--summary", action="store_true")
    given = parser.parse_args()
    if given.summary:
        print(summary(given.out / "gains.csv"))
        return
    torch.set_num_threads(given.threads)
    given.out.mkdir(parents=True, exist_ok=True)
    for budget in given.budgets:
        for name in given.sets:
            cell = cell_of(given.data / name, budget, out=given.out, n_steps=given.steps)
            measure(cell, given.out, ceiling=given.ceiling, n_seeds=given.seeds)


if __name__ == "__main__":
    main()

"""Does the sampler find anything? Default searches on real datasets, next to the listed plans alone.

    python benchmarks/searches.py OUT.csv --data FOLDER [--sets NAME …] [--seeds 1] …

Each run is `autopeft search` on MiniLM-L6 with 2,500 rows of a train file (or all), a fifth as many of the
validation file, 200 steps of 16 rows and without the refit. Where the default returns a plan of the list, the
list alone would have returned the same one, and is not run again. `--policies thorough` measures searches of
`--effort thorough`. In `random in full` and `TPE in full` Optuna draws plans of the same space without a list
and short runs; as many are trained in full as the default's cost allows, and the best score on the confirm
rows is returned. A row of OUT.csv has the score of the returned adapter on the confirm split, and on the
test file, which chooses nothing. Rows that OUT.csv holds are not measured again.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any
from unittest import mock

import optuna
import torch
from rows import SETS, TAGS, append, as_a_user_has_them, measured_keys, read, write_splits

import autopeft
from autopeft import engine
from autopeft.engine import judge
from autopeft.engine.problem import Allowance, Batch, Request, SearchProblem, Steps
from autopeft.engine.search import read_test
from autopeft.engine.study import TPESampler, Trials
from autopeft.types import Outcome, Status

N_ROWS, N_STEPS, BATCH_SIZE = 2500, 200, 16
FIELDS = (
    *("data", "budget", "seed", "policy", "n_trials", "metric", "verdict", "source", "plan"),
    *("trainable_params", "confirm", "test", "test_error", "baseline_test", "full_runs", "seconds"),
)
SAMPLERS: dict[str, Callable[..., optuna.samplers.BaseSampler]] = {
    "random in full": lambda *, seed, **settings: optuna.samplers.RandomSampler(seed),
    "TPE in full": TPESampler,
}


def train_proposals(
    problem: SearchProblem, study: optuna.Study, allowance: Allowance, *, n_runs: int
) -> Steps[Outcome]:
    """Train what the sampler proposes in full; the best score on the confirm rows is returned."""
    trials, finished = Trials(problem, study), {}
    for _ in range(n_runs):
        [(trial, proposal)] = trials.ask(1)
        request = Request(proposal.plan, problem.full, proposal.arm)
        [run] = yield Batch(phase="full runs", n_runs=n_runs, requests=[request])
        trials.tell(trial, proposal, run)
        if run.status is Status.COMPLETE:
            finished[run.plan] = [run]
    best = max(finished, key=lambda plan: problem.sign * fmean(finished[plan][0].example_scores))
    outcome = judge.judge(trials, best, {best: finished[best]})
    tested = yield from read_test(trials, outcome)
    return replace(outcome, test=judge.summarize(trials, [best, best, None], tested))


def measure(
    folder: Path, name: str, budget: str, seed: int, policy: str, *, n_runs: int
) -> list[tuple[object, ...]]:
    """Search one cell, and return its row; with the default, that of the list alone, too."""
    cell = (name, budget, seed)
    with tempfile.TemporaryDirectory() as scratch:
        write_splits(as_a_user_has_them(folder / name, N_ROWS, seed), Path(scratch))

        def searched(out: str, **settings: Any) -> Any:
            task = "token-classification" if name in TAGS else "text-classification"
            lengths = {"max_steps": N_STEPS, "batch_size": BATCH_SIZE}
            out = f"{scratch}/{out}"
            return autopeft.search(
                None,
                scratch,
                budget,
                task=task,
                seed=seed,
                out=out,
                quiet=True,
                refit="off",
                **lengths,
                **settings,
            )

        if policy == "thorough":
            return [(*cell, policy, *_values(searched(policy, effort=policy)))]
        if policy in SAMPLERS:
            search = partial(train_proposals, n_runs=n_runs)
            with (
                mock.patch.object(engine, "search", search),
                mock.patch("autopeft.engine.study.TPESampler", SAMPLERS[policy]),
            ):  # `quick` has no trial of the list
                return [(*cell, policy, *_values(searched(policy, effort="quick")))]
        default = searched(policy)
        n_listed = sum(proposal.source == "list" for proposal in default.proposals)
        is_listed = _source(default) == "list"
        alone = default if is_listed else searched("alone", trials=n_listed)
    return [(*cell, "default", *_values(default)), (*cell, "list alone", *_values(alone))]


def _source(result: Any) -> str:
    """Whether the returned plan is of the list; its head may have another learning rate than there."""
    sampled = {proposal.plan.adapters for proposal in result.proposals if proposal.source == "sampler"}
    listed = {proposal.plan.adapters for proposal in result.proposals if proposal.source == "list"}
    return "sampler" if result.best.adapters in sampled - listed else "list"


def _values(result: Any) -> tuple[object, ...]:
    test = {record.plan: record for record in result.test}
    confirm = {record.plan: record.metric_mean for record in result.full_runs}
    best, arms = (
        test[result.best],
        {proposal.plan.adapters: str(proposal.arm) for proposal in result.proposals},
    )
    return (
        *(len(result.proposals), result.setting.metric, result.verdict.label, _source(result)),
        *(arms.get(result.best.adapters, "head"), result.best.trainable_params, confirm[result.best]),
        *(best.metric_mean, best.metric_std_error, test[result.baseline].metric_mean),
        *(result.cost.total_full_runs, result.cost.total_seconds),
    )


def _full_runs_of_default(table: Path, *cell: object) -> int:
    keys = ("data", "budget", "seed")
    rows = [row for row in read(table) if [row[key] for key in keys] == list(map(str, cell))]
    return next(math.ceil(float(row["full_runs"])) for row in rows if row["policy"] == "default")


def main() -> None:
    """Measure what the table lacks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", default=list(SETS))
    parser.add_argument("--budgets", nargs="+", default=["0.03%", "0.2%"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument(
        "--policies", nargs="+", choices=["default", "thorough", *SAMPLERS], default=["default"]
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    measured = measured_keys(options.out, ("data", "budget", "seed", "policy"))
    cells = product(options.policies, options.seeds, options.budgets, options.sets)
    for policy, seed, budget, name in cells:
        if (name, budget, str(seed), policy) not in measured:
            n_runs = _full_runs_of_default(options.out, name, budget, seed) if policy in SAMPLERS else 0
            for row in measure(options.data, name, budget, seed, policy, n_runs=n_runs):
                append(options.out, FIELDS, row)


if __name__ == "__main__":
    main()

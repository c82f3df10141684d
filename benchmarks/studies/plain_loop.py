"""Train the plans that searches returned in a plain loop that shares no code with autopeft's trainer.

    python benchmarks/studies/plain_loop.py OUT.csv --data FOLDER [--seeds 0 1 2] [--rates two one]

Each plan that `race_gains.csv` has as the result of a search is trained in full with another seed by the
loop of `outside_loop.py`: once with the head's learning rate of `plan.yaml`, once with one rate for
everything. Scores are of the confirm split, next to the score in autopeft's own trainer. Rows that OUT.csv
has are not measured again.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import torch
from outside_loop import Run, predictions, score
from race_gains import BATCH_SIZE, SETS, spec_of

from autopeft.setup.build import prepare
from autopeft.setup.feasible import fit_to_budget, requested_space
from autopeft.space import listed_policies, plan_of
from autopeft.types import with_setting

STEPS = 300
FIELDS = "data budget plan rates seed confirm ours".split()
RACES = Path(__file__).with_name("race_gains.csv")


def returned_plans() -> list[dict[str, str]]:
    """Return the rows of searches."""
    with RACES.open(encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if (row["what"], row["steps"]) == ("search", str(STEPS))]


def main() -> None:
    """Measure what the table does not have yet."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", default=SETS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rates", nargs="+", choices=("two", "one"), default=["two", "one"])
    given = parser.parse_args()
    torch.set_num_threads(1)
    done = set()
    if given.out.exists():
        with given.out.open(encoding="utf-8") as file:
            done = {
                (row["data"], row["budget"], row["rates"], int(row["seed"])) for row in csv.DictReader(file)
            }
    for rates in given.rates:
        for row in returned_plans():
            name, budget, seed = row["data"], row["budget"], int(row["seed"])
            is_done = (name, budget, rates, seed) in done
            if is_done or name not in given.sets or seed not in given.seeds:
                continue
            spec = spec_of(given.data / name, budget, n_steps=STEPS, seed=seed, out=Path())
            spec = with_setting(spec, "execution.dtype", "float32")
            prepared = prepare(spec)
            feasible, context = fit_to_budget(prepared.spec, prepared.base, requested_space(spec))
            found = listed_policies(feasible, prepared.task.defaults.family, context)
            plan = next(plan_of(policy, context) for arm, policy in found if str(arm) == row["plan"])
            head_rate = prepared.bench.head_rates.output if rates == "two" else None
            run = Run(n_steps=STEPS, batch_size=BATCH_SIZE, seed=100 + seed, head_rate=head_rate)
            split = prepared.data.confirm
            (guesses,) = predictions(plan, prepared.base, prepared.data, [split], run)
            outside = score(prepared.task.metric.name, prepared.data, split, guesses)
            is_new = not given.out.exists()
            with given.out.open("a", newline="", encoding="utf-8") as file:
                values = [name, budget, row["plan"], rates, seed, f"{outside:.4f}", row["confirm"]]
                csv.writer(file).writerows([FIELDS] * is_new + [values])


if __name__ == "__main__":
    main()

"""Whether the plans that searches hand over hold in a plain training loop of somebody else.

    python reports/studies/handed_over.py OUT.csv --data FOLDER [--seeds 0 1]

Each plan that `race_gains.csv` names as handed over at 0.1 % is trained in full, from new seeds, by the loop
of `outside_loop.py`, which shares no code with the search: once with the head's rate of `plan.yaml` for the
head, and once with the plan's one rate for everything. Scores are of the confirm split, beside the score of
autopeft's own trainer. Rows that OUT.csv has are not measured again.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import torch
from outside_loop import Run, predictions, score
from race_gains import BATCH_SIZE, SETS, spec_of

from autopeft.records import with_setting
from autopeft.run.prepare import prepare
from autopeft.run.search_problem import fit_to_budget, requested_space
from autopeft.space import first_policies, plan_of

STEPS = 300
FIELDS = "data plan rates seed confirm ours".split()
RACES = Path(__file__).with_name("race_gains.csv")


def handed_over() -> dict[str, tuple[str, float]]:
    """The arm that each set's search handed over, and its score on the confirm split."""
    with RACES.open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if (row["what"], row["budget"]) == ("search", "0.1%")]
    return {row["data"]: (row["plan"], float(row["confirm"])) for row in reversed(rows)}


def main() -> None:
    """Measure what the table lacks."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", default=SETS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    given = parser.parse_args()
    torch.set_num_threads(1)
    done = set()
    if given.out.exists():
        with given.out.open(encoding="utf-8") as file:
            done = {(row["data"], row["rates"], row["seed"]) for row in csv.DictReader(file)}
    for name in given.sets:
        wanted, ours = handed_over()[name]
        spec = spec_of(given.data / name, "0.1%", n_steps=STEPS, seed=0, sizes=1, out=Path())
        spec = with_setting(spec, "execution.dtype", "float32")
        prepared = prepare(spec)
        feasible, context = fit_to_budget(prepared, requested_space(spec))
        found = first_policies(feasible, prepared.task.defaults.family, context)
        plan = next(plan_of(policy, context) for arm, policy in found if str(arm) == wanted)
        for seed in given.seeds:
            for rates, head_rate in (("two", prepared.bench.head_rates.output), ("one", None)):
                if (name, rates, str(seed)) in done:
                    continue
                run = Run(n_steps=STEPS, batch_size=BATCH_SIZE, seed=100 + seed, head_rate=head_rate)
                split = prepared.data.confirm
                guesses = predictions(plan, prepared.base, prepared.data, split, run)
                outside = score(prepared.task.metric, prepared.data, split, guesses)
                is_new = not given.out.exists()
                with given.out.open("a", newline="", encoding="utf-8") as file:
                    row = [name, wanted, rates, seed, f"{outside:.4f}", f"{ours:.4f}"]
                    csv.writer(file).writerows([FIELDS] * is_new + [row])


if __name__ == "__main__":
    main()

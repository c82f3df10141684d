"""Whether a score gives LoRA better sites and ranks than none: greedy by score, uniform and random ranks.

    python reports/studies/score_placement.py OUT.csv STEPS ARM,ARM,... DATA [DATA ...]

The allocator makes LoRA plans at 0.02 %, 0.1 % and 0.5 % of MiniLM-L6: even ranks, ranks by a score per
parameter (exponent 1), by the spectrum, and by random numbers. Each plan gets the best of the same
learning rates by the search split of one seed; it is then trained with three fresh seeds and scored on the
confirm split. Rows that OUT.csv holds are not measured again. `--summary OUT.csv` prints the table of
differences.
"""

from __future__ import annotations

import csv
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from scipy import stats

from autopeft.budget import parse
from autopeft.pipeline.prepare import prepare
from autopeft.pipeline.scoring import sensitivity
from autopeft.records import DataSpec, EvaluatedSplit, Fidelity, Measurement, RunSpec
from autopeft.space import AllocationContext, Policy, plan_of

FIELDS = ("data", "budget", "arm", "stage", "learning_rate", "seed", "params", "loss", "metric")
BUDGETS = ("0.02%", "0.1%", "0.5%")
RATES = (1.5e-3, 4e-3, 1e-2, 2.5e-2)
TUNING_SEED, FRESH_SEEDS = 0, (1, 2, 3)
SCORES = ("random", "gradient", "lora_fisher", "spectrum")


def arms() -> dict[str, Policy]:
    """Every way of giving ranks, by name."""
    even = Policy(method="lora", max_rank=64, learning_rate=1.0)
    by_score = {name: replace(even, exponent=1.0) for name in SCORES if name != "spectrum"}
    return {"uniform": even, **by_score, "spectrum": replace(even, ranks_by="spectrum")}


def rows(
    source: str, steps: int, wanted: list[str], done: set[tuple[str, ...]]
) -> Iterator[tuple[object, ...]]:
    """One row for each run that is not done yet."""
    name = Path(source).name
    prepared = prepare(RunSpec(data=DataSpec(source=source)))
    measured = sensitivity(prepared, list(SCORES))
    sites = [site.name for site in prepared.base.sites]
    values = {score.name: dict(zip(sites, score.values, strict=True)) for score in measured.scores}
    values["uniform"] = dict.fromkeys(sites, 1.0)
    spectrum = next(score for score in measured.scores if score.name == "spectrum")
    profiles = dict(zip(sites, spectrum.profiles, strict=True))
    for budget in BUDGETS:
        most = parse(budget, base_params=prepared.base.base_params).max_trainable_params
        for arm, policy in ((arm, arms()[arm]) for arm in wanted):
            context = AllocationContext(
                sites=prepared.base.sites,
                scores=values[arm],
                methods=prepared.methods,
                max_params=most,
                profiles=profiles,
            )

            def run(
                rate: float, split: EvaluatedSplit, seed: int, policy=policy, context=context
            ) -> Measurement:
                plan = plan_of(replace(policy, learning_rate=rate), context)
                n_examples = len(prepared.bench.splits[split].labels)
                size = prepared.bench.batch_size
                return prepared.bench.measure(
                    plan,
                    Fidelity(
                        split=split,
                        train_steps=steps,
                        train_examples=steps * size,
                        eval_examples=n_examples,
                        seed=seed,
                    ),
                )

            tuned: dict[float, float] = {}
            for rate in RATES:
                key = (name, budget, arm, "tune", f"{rate:g}", str(TUNING_SEED))
                if key in done:
                    tuned[rate] = done_loss[key]
                    continue
                seen = run(rate, "search", TUNING_SEED)
                tuned[rate] = seen.loss if seen.loss is not None else 9.0
                yield (*key, seen.plan.trainable_params, tuned[rate], seen.metric)
            best = min(tuned, key=lambda rate: tuned[rate])
            for seed in FRESH_SEEDS:
                key = (name, budget, arm, "fresh", f"{best:g}", str(seed))
                if key not in done:
                    seen = run(best, "confirm", seed)
                    yield (*key, seen.plan.trainable_params, seen.loss, seen.metric)


done_loss: dict[tuple[str, ...], float] = {}


def summary(out: Path) -> None:
    """Mean difference to uniform over the fresh seeds, with a 95 % t interval over pairs of seeds."""
    by_cell: dict[tuple[str, str, str], dict[str, float]] = defaultdict(dict)
    with out.open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["stage"] == "fresh":
                by_cell[row["data"], row["budget"], row["arm"]][row["seed"]] = float(row["metric"] or "nan")
    for (data, budget, arm), metrics in sorted(by_cell.items()):
        mean = sum(metrics.values()) / len(metrics)
        line = f"| {data} | {budget} | {arm} | {100 * mean:.1f} |"
        even = by_cell[data, budget, "uniform"]
        both = [metrics[seed] - even[seed] for seed in metrics if seed in even]
        if arm != "uniform" and len(both) > 1:
            low, high = stats.t.interval(
                0.95, len(both) - 1, loc=sum(both) / len(both), scale=stats.sem(both)
            )
            line += f" {100 * sum(both) / len(both):+.1f} ({100 * low:+.1f} to {100 * high:+.1f}) |"
        else:
            line += " |"
        print(line)


def main(out: Path, steps: int, wanted: list[str], sources: list[str]) -> None:
    """Measure every arm that the file lacks."""
    done: set[tuple[str, ...]] = set()
    if out.exists():
        with out.open(encoding="utf-8") as file:
            for row in csv.DictReader(file):
                key = tuple(row[name] for name in FIELDS[:6])
                done.add(key)
                done_loss[key] = float(row["loss"] or 9.0)
    for source in sources:
        for row in rows(source, steps, wanted, done):
            is_new = not out.exists()
            with out.open("a", newline="", encoding="utf-8") as file:
                csv.writer(file).writerows([FIELDS, row] if is_new else [row])
            print(*row, flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "--summary":
        summary(Path(sys.argv[2]))
    else:
        main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3].split(","), sys.argv[4:])

"""Each method at rates around its range: loss, accuracy and step time on the demo model.

    python reports/studies/method_learning_rates.py OUT.csv [STEPS]

One plan of each method on all the sites that it fits, as large as 0.5 % of MiniLM-L6 allows, at five rates
from a third of the range's lower end to three times its upper end. The data are 3,000 review sentences;
metric and loss are of the search split, one seed. Rows that OUT.csv holds are not measured again. A range
is sound where the best rate lies inside it.
"""

from __future__ import annotations

import csv
import math
import sys
from pathlib import Path

from autopeft.pipeline.prepare import parse_budget, prepare
from autopeft.records import Fidelity, RunSpec
from autopeft.space import AllocationContext, Policy, plan_of

FIELDS = ("method", "learning_rate", "trainable_params", "loss", "metric", "seconds_per_step", "error")
N_RATES = 5


def rates(low: float, high: float) -> list[float]:
    """Evenly spaced in the logarithm, from low / 3 to 3 high, to three digits."""
    step = math.log(9 * high / low) / (N_RATES - 1)
    return [float(f"{low / 3 * math.exp(step * index):.3g}") for index in range(N_RATES)]


def main(out: Path, steps: int) -> None:
    """Measure every method at every rate that the file lacks."""
    prepared = prepare(RunSpec())
    available = parse_budget(prepared).max_trainable_params
    uniform = dict.fromkeys((site.name for site in prepared.base.sites), 1.0)
    context = AllocationContext(
        sites=prepared.base.sites, scores=uniform, methods=prepared.methods, max_params=available
    )
    fidelity = Fidelity(
        split="search",
        train_steps=steps,
        train_examples=steps * prepared.bench.batch_size,
        eval_examples=len(prepared.bench.splits["search"].labels),
        seed=0,
    )
    done = set()
    if out.exists():
        with out.open(encoding="utf-8") as file:
            done = {(row["method"], float(row["learning_rate"])) for row in csv.DictReader(file)}
    for name, method in prepared.methods.items():
        if all(method.refusal(site) is not None for site in prepared.base.sites):
            continue
        for rate in rates(*method.learning_rate_range):
            if (name, rate) in done:
                continue
            plan = plan_of(Policy(method=name, max_rank=64, learning_rate=rate), context)
            seen = prepared.bench.measure(plan, fidelity)
            row = (
                name,
                rate,
                plan.trainable_params,
                seen.loss,
                seen.metric,
                round(seen.train_seconds / steps, 3),
                seen.error or "",
            )
            is_new = not out.exists()
            with out.open("a", newline="", encoding="utf-8") as file:
                writer = csv.writer(file)
                writer.writerows([FIELDS, row] if is_new else [row])
            print(*row, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 44)

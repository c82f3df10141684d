"""How the best learning rate depends on the rank, under three rules for the scale.

    python reports/studies/rank_and_rate.py OUT.csv STEPS DATA

LoRA of one rank on all linear maps of MiniLM-L6, without a budget, at rates a factor of two apart. The
scale is constant (2), rsLoRA's (4 / sqrt(r)) or classic (8 / r, alpha fixed); the three agree at rank 4.
"""

from __future__ import annotations

import csv
import math
import sys
from dataclasses import replace
from pathlib import Path

from autopeft.pipeline.prepare import prepare
from autopeft.records import Adapter, DataSpec, Fidelity, Plan, RunSpec

RANKS = (1, 4, 16, 64)
RATES = (1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2)
RULES = {"constant": lambda r: 2.0, "rslora": lambda r: 4.0 / math.sqrt(r), "classic": lambda r: 8.0 / r}


def main(out: Path, steps: int, source: str) -> None:
    """Measure every combination and print the loss."""
    prepared = prepare(RunSpec(data=DataSpec(source=source)))
    lora, size = prepared.methods["lora"], prepared.bench.batch_size
    sites = [site for site in prepared.base.sites if lora.refusal(site) is None]
    fidelity = Fidelity(
        split="search",
        train_steps=steps,
        train_examples=steps * size,
        eval_examples=len(prepared.bench.splits["search"].labels),
        seed=0,
    )
    seen = set()
    for rank in RANKS:
        for rule, scale in RULES.items():
            adapters = tuple(Adapter(method="lora", site=s.name, rank=rank, scale=scale(rank)) for s in sites)
            cost = sum(lora.cost(site, rank, {}) for site in sites)
            plan = Plan(adapters=adapters, learning_rate=1.0, trainable_params=cost)
            for rate in RATES:
                if (rank, scale(rank), rate) in seen:
                    continue
                seen.add((rank, scale(rank), rate))
                measurement = prepared.bench.measure(replace(plan, learning_rate=rate), fidelity)
                row = (Path(source).name, rank, rule, f"{rate:g}", measurement.loss, measurement.metric)
                with out.open("a", newline="", encoding="utf-8") as file:
                    csv.writer(file).writerow(row)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3])

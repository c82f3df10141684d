"""How the learning rate of the task head changes the comparison of methods.

    python reports/studies/head_learning_rate.py DATA [STEPS]

Trains uniform LoRA (0.5 % of MiniLM-L6) and IA3 on all linear maps, with the head at several
rates, and prints the metric and the loss on the confirm split. One seed, so the numbers are coarse.
"""

from __future__ import annotations

import sys

from autopeft.pipeline.fitting import parse_budget
from autopeft.pipeline.prepare import prepare
from autopeft.records import DataSpec, Fidelity, RunSpec
from autopeft.space import AllocationContext, Policy, plan_of
from autopeft.train.rates import HeadRates

ARMS = (("lora", 4e-3), ("lora", 8e-3), ("lora", 1.6e-2), ("ia3", 3e-2))


def main(source: str, steps: int) -> None:
    """Print metric and loss for each plan and each rate of the head."""
    prepared = prepare(RunSpec(data=DataSpec(source=source)))
    available = parse_budget(prepared).max_trainable_params
    uniform = dict.fromkeys((site.name for site in prepared.base.sites), 1.0)
    context = AllocationContext(
        sites=prepared.base.sites, scores=uniform, methods=prepared.methods, max_params=available
    )
    fidelity = Fidelity(
        split="confirm",
        train_steps=steps,
        train_examples=steps * prepared.bench.batch_size,
        eval_examples=len(prepared.bench.splits["confirm"].labels),
        seed=1,
    )
    head = prepared.bench.head_rates
    for method, rate in ARMS:
        plan = plan_of(Policy(method=method, learning_rate=rate), context)
        for label, head_rate in (("adapters'", rate), ("4e-2", 4e-2), ("2.6e-2", 2.6e-2), ("1e-2", 1e-2)):
            scaled = {name: rate * head_rate / head.output for name, rate in head.by_name.items()}
            vars(prepared.bench)["head_rates"] = HeadRates(by_name=scaled, output=head_rate)
            seen = prepared.bench.measure(plan, fidelity)
            print(f"{method:<5} {rate:.1e}  head {label:<9}  {seen.metric}  {seen.loss}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 53)

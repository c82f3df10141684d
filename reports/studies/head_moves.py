"""How far the head's outputs may move in one step: uniform LoRA on any model and task.

    python reports/studies/head_moves.py STEPS RATE,RATE,... FIELD=VALUE ...

FIELD=VALUE are settings, such as task.name=image-classification model.id=PATH data.source=PATH. A move is
the head's learning rate × its inputs × their RMS. Prints the RMS of the inputs of the head's last layer;
then, for each learning rate of LoRA and each move, loss and metric on the search split of two seeds. The
first move is that of the rate 10 / inputs, whatever the RMS.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from autopeft.pipeline.fitting import parse_budget
from autopeft.pipeline.prepare import prepare
from autopeft.records import Fidelity, RunSpec
from autopeft.space import AllocationContext, Policy, plan_of
from autopeft.train import rates as head
from autopeft.train.rates import HeadRates

MOVES = (0.15, 0.3, 0.6, 1.2, 2.4)
SEEDS = (1, 2)


def main(steps: int, rates: Sequence[float], settings: Sequence[str]) -> None:
    """Print one row for each learning rate and move."""
    topics: dict[str, dict[str, str]] = {}
    for setting in settings:
        name, value = setting.split("=", 1)
        topic, field = name.split(".")
        topics.setdefault(topic, {})[field] = value
    prepared = prepare(RunSpec.model_validate(topics))
    bench, available = prepared.bench, parse_budget(prepared).max_trainable_params
    uniform = dict.fromkeys((site.name for site in prepared.base.sites), 1.0)
    context = AllocationContext(
        sites=prepared.base.sites, scores=uniform, methods=prepared.methods, max_params=available
    )
    usual_rates = bench.head_rates
    output: Any = prepared.base.module.get_submodule(prepared.base.output_layer or "")
    n_inputs = output.in_features
    rms = head._MOVE / (usual_rates.output * n_inputs)
    print(f"{n_inputs} inputs, RMS {rms:.3f}")
    for rate in rates:
        plan = plan_of(Policy(method="lora", learning_rate=rate), context)
        for move in (10 * rms, *MOVES):
            head_rate = move / (n_inputs * rms)
            scaled = {
                name: usual * head_rate / usual_rates.output for name, usual in usual_rates.by_name.items()
            }
            vars(bench)["head_rates"] = HeadRates(by_name=scaled, output=head_rate)
            cells = []
            for seed in SEEDS:
                seen = bench.measure(
                    plan,
                    Fidelity(
                        split="search",
                        train_steps=steps,
                        train_examples=steps * bench.batch_size,
                        eval_examples=min(300, len(bench.splits["search"].labels)),
                        seed=seed,
                    ),
                )
                cells.append(
                    f"{seen.loss:.3f}, {seen.metric:.3f}" if seen.loss is not None else str(seen.error)
                )
            print(f"| {rate:.1e} | {move:.2f} | {head_rate:.2e} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), [float(rate) for rate in sys.argv[2].split(",")], sys.argv[3:])

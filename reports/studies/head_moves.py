"""How far the head's outputs may move at a step, on any model and task: uniform LoRA.

    python reports/studies/head_moves.py STEPS RATE,RATE,... FIELD=VALUE ...

FIELD=VALUE are settings, such as task.name=image-classification model.id=PATH data.source=PATH. Prints the
RMS of what the head's last layer is given, and for each learning rate of LoRA and each move (the head's rate
× inputs × RMS; the first is 10 / inputs, whatever the RMS) loss and metric on the search split, two seeds.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from autopeft.pipeline.prepare import parse_budget, prepare
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
    bench, (_, available) = prepared.bench, parse_budget(prepared)
    uniform = dict.fromkeys((site.name for site in prepared.base.sites), 1.0)
    context = AllocationContext(
        sites=prepared.base.sites, scores=uniform, methods=prepared.methods, max_params=available
    )
    found = bench.head_rates
    n_inputs = prepared.base.module.get_submodule(prepared.base.output_layer).in_features
    rms = head._MOVE / (found.output * n_inputs)
    print(f"{n_inputs} inputs, RMS {rms:.3f}")
    for rate in rates:
        plan = plan_of(Policy(method="lora", learning_rate=rate), context)
        for move in (10 * rms, *MOVES):
            head_rate = move / (n_inputs * rms)
            scaled = {name: own * head_rate / found.output for name, own in found.by_name.items()}
            vars(bench)["head_rates"] = HeadRates(by_name=scaled, output=head_rate)
            told = []
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
                told.append(
                    f"{seen.loss:.3f}, {seen.metric:.3f}" if seen.loss is not None else str(seen.error)
                )
            print(f"| {rate:.1e} | {move:.2f} | {head_rate:.2e} | " + " | ".join(told) + " |", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), [float(rate) for rate in sys.argv[2].split(",")], sys.argv[3:])

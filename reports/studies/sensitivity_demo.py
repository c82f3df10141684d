"""Cost of the sensitivity on the demo in R, and how many examples two halves need to agree.

    python reports/studies/sensitivity_demo.py [ROUNDS] [SAMPLES]

First the cost: each of 7 rounds (2 at least) times the default analysis (`gradient,fisher`, stopped by its
own rule) and then 11 of the 110 steps of the baseline's full run. The whole analysis counts; the steps are
scaled up to R. Then Spearman's rho between the halves of 64, 128, 256 and 512 examples for each score that
looks at examples: the mean over 5 samples of the train split, and the least.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from statistics import median, quantiles

import transformers

from autopeft.extension import discover
from autopeft.pipeline.prepare import Prepared, prepare, with_demo_settings
from autopeft.pipeline.scoring import sensitivity
from autopeft.records import Fidelity, Plan, RunSpec, Sensitivity
from autopeft.sensitivity import reads_examples
from autopeft.space import AllocationContext, Policy, plan_of

DEFAULT = ("gradient", "fisher")
SIZES = (64, 128, 256, 512)
N_STEPS = 11


def baseline(prepared: Prepared) -> Plan:
    """LoRA on all linear maps at 0.5 %."""
    scores = dict.fromkeys((site.name for site in prepared.base.sites), 1.0)
    context = AllocationContext(
        sites=prepared.base.sites,
        scores=scores,
        methods=prepared.methods,
        max_params=prepared.base.base_params // 200,
    )
    return plan_of(Policy(method="lora", learning_rate=4e-3), context)


def share_of_full_run(prepared: Prepared, *, n_rounds: int) -> None:
    """Time the default analysis beside steps of the baseline, in turn."""
    plan, bench = baseline(prepared), prepared.bench
    fidelity = Fidelity(
        split="search",
        train_steps=N_STEPS,
        train_examples=N_STEPS * bench.batch_size,
        eval_examples=len(bench.splits["search"].labels),
        seed=0,
    )
    rounds: list[tuple[Sensitivity, float]] = []
    for _ in range(n_rounds + 1):
        analysis = sensitivity(prepared, DEFAULT)
        seconds = bench.measure(plan, fidelity).train_seconds
        rounds.append((analysis, prepared.full_steps * seconds / N_STEPS))
    del rounds[0]  # warming up
    shares = [analysis.seconds / full_run for analysis, full_run in rounds]
    low, middle, high = quantiles(shares, n=4)
    analysis = rounds[0][0]
    agreements = ", ".join(f"{score.name} {score.split_half:.3f}" for score in analysis.scores)
    print(
        f"default analysis: {analysis.n_examples} of {analysis.n_asked} examples, "
        f"halves agree by {agreements}"
    )
    print(
        f"{median(timed.seconds for timed, _ in rounds):.2f} s, R = {median(r for _, r in rounds):.1f} s: "
        f"{middle:.3f} R (quartiles {low:.3f} to {high:.3f} over {n_rounds} rounds)"
    )


def halves_table(prepared: Prepared, *, n_samples: int) -> None:
    """Print the agreement of the halves by score and number of examples."""
    parts = discover("autopeft.sensitivity")
    names = [name for name in parts if reads_examples(parts[name])]
    print("\n| score | " + " | ".join(f"{size} examples" for size in SIZES) + " |")
    print("|" + "---|" * (1 + len(SIZES)))
    agreements: dict[tuple[str, int], list[float]] = {}
    for seed in range(n_samples):
        search = prepared.spec.search.model_copy(update={"seed": seed})
        seeded = replace(prepared, spec=prepared.spec.model_copy(update={"search": search}))
        for size in SIZES:
            for score in sensitivity(seeded, names, max_examples=size, enough=2.0).scores:
                assert score.split_half is not None
                agreements.setdefault((score.name, size), []).append(score.split_half)
    for name in names:
        columns = (agreements[name, size] for size in SIZES)
        cells = [f"{sum(rhos) / len(rhos):.3f} ({min(rhos):.3f})" for rhos in columns]
        print(f"| `{name}` | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    given = [*map(int, sys.argv[1:]), *(7, 5)[len(sys.argv) - 1 :]]
    demo = prepare(with_demo_settings(RunSpec(), frozenset()))
    share_of_full_run(demo, n_rounds=given[0])
    halves_table(demo, n_samples=given[1])

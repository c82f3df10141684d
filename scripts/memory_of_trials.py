"""Peak memory over many trials of the demo: what one leaves behind would add up.

    python scripts/memory_of_trials.py [N_TRIALS]

Trials alternate between methods and learning rates. They train two steps on the same rows, as short runs do:
other rows may be wider and have a higher peak. Each is evaluated on 32 rows.
Prints the peak resident memory of the process after a tenth of the trials and after all of them.
"""

from __future__ import annotations

import resource
import sys
from dataclasses import replace

from autopeft.run.prepare import prepare
from autopeft.space import AllocationContext, Policy, plan_of
from autopeft.types import Fidelity, RunSpec, Status


def main() -> None:
    """Measure and print."""
    n_trials = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    prepared = prepare(RunSpec())
    targets = prepared.base.targets
    context = AllocationContext(
        targets=targets,
        scores=dict.fromkeys((target.name for target in targets), 1.0),
        methods=prepared.methods,
        max_params=prepared.base.base_params // 100,
    )
    policies = [
        Policy(method="lora", learning_rate=1e-3),
        Policy(method="lora", learning_rate=1e-3, options=(("dora", True),)),
        Policy(method="ia3", learning_rate=1e-2),
        Policy(method="ln_tuning", learning_rate=1e-3),
    ]
    plans = [plan_of(policy, context) for policy in policies]
    peaks = {}
    for trial in range(1, n_trials + 1):
        plan = replace(plans[trial % len(plans)], learning_rate=1e-3 * (1 + trial / n_trials))
        fidelity = Fidelity(split="search", train_steps=2, train_examples=64, eval_examples=32, seed=0)
        measurement = prepared.bench.measure(plan, fidelity)
        assert measurement.status is Status.COMPLETE, measurement.error
        peaks[trial] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # KiB on Linux
    early, late = peaks[max(1, n_trials // 10)], peaks[n_trials]
    print(
        f"{early:.0f} MiB after {max(1, n_trials // 10)} trials, {late:.0f} MiB after {n_trials}: "
        f"{100 * (late / early - 1):+.1f} %"
    )


if __name__ == "__main__":
    main()

"""What a base model in bfloat16 changes: the order of plans by loss, and that of sites by score.

    python reports/studies/precision.py plans [--steps N] [--examples N]
    python reports/studies/precision.py scores [--model ID --data SOURCE --task NAME] [--examples N]

`plans` trains eleven plans of several methods, placements and rates on the demo's model and data, in each
precision: float32, float32 with products of medium precision, and a base held in bfloat16. `scores`
measures every sensitivity score in float32 and in bfloat16 on the same examples. Both print Spearman's rank
correlation with float32, and the processor seconds of each precision.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator, Mapping

from autopeft.evidence import rank_correlation
from autopeft.extension import discover
from autopeft.model import Precision
from autopeft.pipeline import prepare
from autopeft.pipeline.scoring import sensitivity
from autopeft.records import Adapter, Fidelity, Plan, RunSpec
from autopeft.store import by_dotted_name, resolve_settings

PRECISIONS = (Precision(), Precision(matmul="medium"), Precision(dtype="bfloat16"))
# Method, rank, roles (none: all), rate as a share of the method's range on a logarithmic scale.
CHOSEN = (
    *(("lora", 2, (), share) for share in (0.05, 0.35, 0.6, 0.95)),
    ("lora", 8, ("q", "v"), 0.6),
    ("lora", 1, ("up", "down"), 0.6),
    ("ia3", 0, (), 0.5),
    ("bitfit", 0, (), 0.5),
    ("oft", 4, (), 0.5),
    ("hira", 2, (), 0.5),
    ("vera", 4, ("q", "v"), 0.5),
)


def spec_of(precision: Precision, settings: Mapping[str, object]) -> RunSpec:
    """Settings of a run in a precision; the demo's where neither a model nor data is named."""
    names = {name: value for name, value in settings.items() if value is not None}
    flags = by_dotted_name({"dtype": precision.dtype, "device": "cpu", **names})
    spec, _ = resolve_settings(config=None, env={}, flags=flags, assignments=())
    execution = spec.execution.model_copy(update={"matmul_precision": precision.matmul})
    return spec.model_copy(update={"execution": execution})


def plans_of(prepared: prepare.Prepared) -> Iterator[Plan]:
    """The chosen plans on a base model."""
    for name, rank, roles, share in CHOSEN:
        method = prepared.methods[name]
        sites = [
            s for s in prepared.base.sites if method.refusal(s) is None and (not roles or s.role in roles)
        ]
        adapters = []
        for site in sites:
            options = method.options(site)
            ranks = method.ranks(site, options)
            at_site = max((r for r in ranks if r <= rank), default=ranks[0]) if method.ranked else 0
            adapters.append((site, at_site, options))
        low, high = method.learning_rate_range
        yield Plan(
            adapters=tuple(
                Adapter(
                    method=name, site=site.name, rank=r, scale=method.scale(r), options=tuple(options.items())
                )
                for site, r, options in adapters
            ),
            learning_rate=low * math.pow(high / low, share),
            trainable_params=sum(method.cost(site, r, options) for site, r, options in adapters),
        )


def compare_plans(n_steps: int, n_examples: int) -> None:
    """Print the loss of each plan in each precision, and the rank correlations."""
    losses: list[list[float]] = []
    for precision in PRECISIONS:
        prepared = prepare.prepare(spec_of(precision, {}))
        fidelity = Fidelity(
            split="search",
            train_steps=n_steps,
            train_examples=n_steps * prepared.bench.batch_size,
            eval_examples=n_examples,
            seed=0,
        )
        started = time.process_time()
        measured = [prepared.bench.measure(plan, fidelity) for plan in plans_of(prepared)]
        losses.append([math.inf if m.loss is None else m.loss for m in measured])
        rho = rank_correlation(losses[0], losses[-1])
        words = " ".join(f"{loss:.4f}" for loss in losses[-1])
        print(
            f"{precision}: {time.process_time() - started:.0f} s, Spearman {rho:.3f}, losses {words}",
            flush=True,
        )


def compare_scores(n_examples: int, settings: Mapping[str, object]) -> None:
    """Print the rank correlation of every score in bfloat16 with itself in float32."""
    names = list(discover("autopeft.sensitivity"))
    results = []
    for precision in (PRECISIONS[0], PRECISIONS[2]):
        prepared = prepare.prepare(spec_of(precision, settings))
        started = time.process_time()
        results.append(sensitivity(prepared, names, max_examples=n_examples, enough=2.0))
        print(f"{precision}: {time.process_time() - started:.0f} s", flush=True)
    measured = [i for i, site in enumerate(prepared.base.sites) if site.kind != "model"]
    for exact, low in zip(results[0].scores, results[1].scores, strict=True):
        values = [[score.values[i] for i in measured] for score in (exact, low)]
        rho = rank_correlation(*values)  # None where all values are alike
        print(f"{exact.name}: {'-' if rho is None else f'{rho:.4f}'} ({len(measured)} sites)")


def main() -> None:
    """Read the arguments and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("what", choices=["plans", "scores"])
    for name in ("--model", "--data", "--task"):
        parser.add_argument(name)
    parser.add_argument("--max-length", type=int)
    parser.add_argument("--steps", type=int, default=44)
    parser.add_argument("--examples", type=int, default=128)
    arguments = parser.parse_args()
    if arguments.what == "plans":
        compare_plans(arguments.steps, arguments.examples)
    else:
        named = {name: getattr(arguments, name) for name in ("model", "data", "task", "max_length")}
        compare_scores(arguments.examples, named)


if __name__ == "__main__":
    main()

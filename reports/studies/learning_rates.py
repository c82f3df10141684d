"""Loss against learning rate on one model: of every method, or of one by rank and, for LoRA, scale rule.

    python reports/studies/learning_rates.py methods OUT.csv --model M --data D [--task T] [--steps N]
    python reports/studies/learning_rates.py ranks OUT.csv --model M --data D [--steps N] [--only hira]

`methods`: one plan of each method on all the sites that it fits, as large as 0.5 % of the model allows, at
rates a factor of 2.5 apart, the middle of the range first. `ranks`: LoRA of rank 1, 4, 16 or 64 on all linear
maps under three rules for the scale, which agree at rank 4, at rates a factor of 2 apart, two seeds; or
another method, which has no scale. Losses are of the search split. Rows that OUT.csv holds are not measured
again, so that a stopped study goes on. `rate_evidence.py` makes the tables.
"""

from __future__ import annotations

import argparse
import csv
import math
from collections.abc import Iterable, Iterator
from pathlib import Path

from autopeft.pipeline.fitting import parse_budget
from autopeft.pipeline.prepare import Prepared, prepare
from autopeft.records import Adapter, Fidelity, Plan, RunSpec
from autopeft.space import AllocationContext, Policy, plan_of

FIELDS = "model data steps name rank rule scale learning_rate seed loss metric error".split()
N_KEYS = FIELDS.index("loss")
STEPS_APART, RANKS, RANK_RATES = 2.5, (1, 4, 16, 64), (1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2)
RULES = {
    "alpha / r constant": lambda r: 2.0,
    "alpha = sqrt(r)": lambda r: 4.0 / math.sqrt(r),
    "alpha constant": lambda r: 8.0 / r,
}
Case = tuple[str, int, str, Plan, int]  # name, rank, rule, plan and seed


def method_cases(
    prepared: Prepared, centres: dict[str, float], names: list[str], powers: list[int]
) -> Iterator[Case]:
    """Every method at rates around its centre, which are powers of a factor apart."""
    context = AllocationContext(
        sites=prepared.base.sites,
        scores=dict.fromkeys((site.name for site in prepared.base.sites), 1.0),
        methods=prepared.methods,
        max_params=parse_budget(prepared).max_trainable_params,
    )
    for power in powers:
        for name, method in prepared.methods.items():
            fits = any(method.refusal(site) is None for site in prepared.base.sites)
            if fits and (name in names or not names):
                centre = centres.get(name) or math.sqrt(math.prod(method.learning_rate_range))
                rate = float(f"{centre * STEPS_APART**power:.3g}")
                yield name, 0, "", plan_of(Policy(method=name, max_rank=64, learning_rate=rate), context), 0


def rank_cases(prepared: Prepared, rates: Iterable[float], *, name: str, n_seeds: int) -> Iterator[Case]:
    """A method on all linear maps by rank, LoRA also by rule, rate and seed; equal plans once."""
    method = prepared.methods[name]
    rules = RULES if name == "lora" else {"": method.scale}
    sites = [site for site in prepared.base.sites if method.refusal(site) is None]
    done = set()
    for seed in range(n_seeds):
        for rate in rates:
            for rank in RANKS:
                for rule, scale_of in rules.items():
                    scale = scale_of(rank)
                    if (key := (seed, rate, rank, scale)) in done:
                        continue
                    done.add(key)
                    adapters = tuple(Adapter(method=name, site=s.name, rank=rank, scale=scale) for s in sites)
                    cost = sum(method.cost(site, rank, {}) for site in sites)
                    plan = Plan(adapters=adapters, learning_rate=rate, trainable_params=cost)
                    yield name, rank, rule, plan, seed


def settings(given: argparse.Namespace) -> RunSpec:
    """The settings of a run of so many steps on this model and data."""
    spec = RunSpec()
    task = {"name": given.task, "batch_size": given.batch_size, "max_length": given.max_length}
    topics = {
        "model": {"id": given.model},
        "data": {"source": given.data},
        "task": {**task, "max_steps": given.steps},
        "execution": {"dtype": "bfloat16"},
    }
    changed = {name: getattr(spec, name).model_copy(update=update) for name, update in topics.items()}
    return spec.model_copy(update=changed)


def measure(prepared: Prepared, cases: Iterable[Case], given: argparse.Namespace) -> None:
    """Measure every case that the file lacks, and write its row."""
    names = (Path(given.model or "MiniLM-L6").name, Path(given.data or "uci_sentiment").stem, given.steps)
    known = set()
    if given.out.exists():
        with given.out.open(encoding="utf-8", newline="") as file:
            known = {tuple(row[name] for name in FIELDS[:N_KEYS]) for row in csv.DictReader(file)}
    for name, rank, rule, plan, seed in cases:
        scale = plan.adapters[0].scale
        key = (*names, name, rank, rule, f"{scale:g}", f"{plan.learning_rate:g}", seed)
        if tuple(map(str, key)) in known:
            continue
        fidelity = Fidelity(
            split="search",
            train_steps=given.steps,
            train_examples=given.steps * prepared.bench.batch_size,
            eval_examples=min(given.eval_examples, len(prepared.bench.splits["search"].labels)),
            seed=seed,
        )
        seen = prepared.bench.measure(plan, fidelity)
        row = (*key, seen.loss, seen.metric, seen.error or "")
        is_new = not given.out.exists()
        with given.out.open("a", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([FIELDS, row] if is_new else [row])
        print(*row, flush=True)


def main() -> None:
    """Read the arguments and measure."""
    parser = argparse.ArgumentParser()
    parser.add_argument("study", choices=("methods", "ranks"))
    parser.add_argument("out", type=Path)
    parser.add_argument("--model")
    parser.add_argument("--data")
    parser.add_argument("--task", default="text-classification")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--max-length", type=int, default=128)
    parser.add_argument("--eval-examples", type=int, default=192)
    parser.add_argument("--rates", type=float, nargs="*", default=RANK_RATES)
    parser.add_argument("--only", nargs="*", default=[], help="methods to measure, instead of all or of LoRA")
    parser.add_argument("--seeds", type=int, default=2, help="of each rank")
    parser.add_argument(
        "--powers", type=int, nargs="*", default=[0, 1, -1, 2, -2], help="of 2.5, times the centre"
    )
    parser.add_argument(
        "--centre", nargs="*", default=[], help="name=rate, instead of the middle of the range"
    )
    given = parser.parse_args()
    prepared = prepare(settings(given))
    centres = {name: float(rate) for name, _, rate in (text.partition("=") for text in given.centre)}
    if given.study == "methods":
        measure(prepared, method_cases(prepared, centres, given.only, given.powers), given)
    else:
        for name in given.only or ["lora"]:
            measure(prepared, rank_cases(prepared, given.rates, name=name, n_seeds=given.seeds), given)


if __name__ == "__main__":
    main()

"""Whether a trained adapter tells which of its sites a smaller plan needs: pruned plans against plain ones.

    python reports/studies/pruning.py OUT.csv --data FOLDER [FOLDER ...] [--sizes 1/4] [--ways singular all]
    python reports/studies/pruning.py OUT.csv --summary

LoRA on all linear maps of MiniLM-L6 at 0.5 % is trained for 75 steps, as a plan that leads a search is. Then
plans of a quarter and a sixteenth of its parameters are chosen in these ways:

- `ablation`: the sites whose adapter, when switched off, raises the loss of the search split most per
  parameter, at the parent's ranks
- `singular`: the largest singular values of all changes of weights per parameter, which gives each site a
  rank of its own; `singular18` by those after 18 steps
- `spectrum`: ranks by the score of that name, singular values of gradients before any training
- `random`: sites by a random order, at the parent's ranks
- `all`, `q+v`: the LoRAs of that size that people write, which a search samples as smaller plans
- `everywhere`, `attention+up`: even ranks, from 1 on, at these sites of every layer as far as they fit
- `ia3`, `road`: other arms with as few parameters, at the rate that suits them, where they fit

Each is trained in full from the start, with two seeds at the parent's rate and at 1.8 times that (IA3 and
RoAd: at 0.45 and 0.65 of their range), and scored on the confirm split. Rows that OUT.csv holds are not
measured again.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import math
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from autopeft.adapters import compile_plan
from autopeft.budget import parse
from autopeft.model import load_weights
from autopeft.pipeline.prepare import Prepared, prepare
from autopeft.pipeline.scoring import sensitivity
from autopeft.records import Adapter, DataSpec, EvaluatedSplit, Fidelity, Plan, RunSpec, TaskSpec
from autopeft.space import AllocationContext, Policy, baseline_policies, plan_of
from autopeft.train import Bench

FIELDS = ("data", "size", "way", "learning_rate", "seed", "params", "loss", "metric")
SHARES = {"1": 1, "1/4": 4, "1/16": 16}
RUNG, FIRST_RUNG, EXAMPLES, POSITIONS = 75, 18, 500, (0.45, 0.65)
FACTORS = (0.55, 1, 1.8)  # of the parent's rate
WAYS = (
    "parent",
    "ablation",
    "singular",
    "singular18",
    "singular one scale",
    "spectrum",
    "random",
    "all",
    "q+v",
    "everywhere",
    "attention+up",
    "ia3",
    "road",
)
TAGGED = ("wnut17", "snips_slots")


def fidelity(bench: Bench, split: EvaluatedSplit, steps: int, seed: int) -> Fidelity:
    """A run of so many steps, judged by at most 500 examples of a split."""
    return Fidelity(
        split=split,
        train_steps=steps,
        train_examples=steps * bench.batch_size,
        eval_examples=min(EXAMPLES, len(bench.splits[split].labels)),
        seed=seed,
    )


def importances(
    bench: Bench, plan: Plan, steps: int, *, ablates: bool
) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Of each adapter of a kept run: what the loss gains without it, and its singular values."""
    stack = compile_plan(plan, bench.methods)
    bench.measure(plan, fidelity(bench, "confirm", steps, 0))
    with bench.base.attached(stack.configs, plan=plan, task_type=bench.task.peft_task_type, seed=0) as model:
        assert bench.keep_weights is not None
        load_weights(model, stack.names, bench.keep_weights(plan, 0))
        model.eval()
        whole = bench.evaluate(model, "search", n_examples=EXAMPLES).loss if ablates else 0.0
        modules = {
            adapter.site: next(
                module
                for name, module in model.named_modules()
                if name.endswith(f".{adapter.site}") and hasattr(module, "lora_A")
            )
            for adapter in plan.adapters
        }
        lost, values = dict[str, float](), dict[str, list[float]]()
        for site, module in modules.items():
            (key,) = module.scaling
            values[site] = torch.linalg.svdvals(module.get_delta_weight(key).detach()).tolist()
            if ablates:
                scaling, module.scaling[key] = module.scaling[key], 0.0
                lost[site] = bench.evaluate(model, "search", n_examples=EXAMPLES).loss - whole
                module.scaling[key] = scaling
    return lost, values


def fewer_sites(plan: Plan, values: Mapping[str, float], most: int, costs: Mapping[str, int]) -> Plan:
    """The sites of the largest values, as many as fit."""
    kept, n_params = list[Adapter](), 0
    for adapter in sorted(plan.adapters, key=lambda adapter: -values[adapter.site]):
        if n_params + costs[adapter.site] * adapter.rank <= most:
            kept.append(adapter)
            n_params += costs[adapter.site] * adapter.rank
    return replace(plan, adapters=tuple(kept), trainable_params=n_params)


def fewer_ranks(
    plan: Plan,
    singular: Mapping[str, Sequence[float]],
    most: int,
    costs: Mapping[str, int],
    scale: Callable[[int], float] | None,
) -> Plan:
    """The ranks of the largest singular values per parameter, as many as fit, with a scale by rank or one."""
    steps = [
        (value**2 / costs[adapter.site], adapter.site)
        for adapter in plan.adapters
        for value in singular[adapter.site][: adapter.rank]
    ]
    ranks, n_params = Counter[str](), 0
    for _, site in sorted(steps, reverse=True):
        if n_params + costs[site] <= most:
            ranks[site] += 1
            n_params += costs[site]
    kept = tuple(
        replace(a, rank=ranks[a.site], scale=scale(ranks[a.site]) if scale else a.scale)
        for a in plan.adapters
        if ranks[a.site]
    )
    return replace(plan, adapters=kept, trainable_params=n_params)


def size_of_ranks(way: str, plan: Plan) -> str:
    """The ranks of a plan by role, from the first layer to the last."""
    by_role: dict[str, list[str]] = defaultdict(list)
    for adapter in plan.adapters:
        numbers = [part for part in adapter.site.split(".") if part.isdigit()]
        by_role[".".join(adapter.site.split(".")[-2:])].append(f"{'.'.join(numbers)}:{adapter.rank}")
    return f"{way}: " + "; ".join(f"{role} {' '.join(ranks)}" for role, ranks in by_role.items())


def parent_of(bench: Bench, plans: Sequence[Plan]) -> Plan:
    """The plan with the lowest loss after the rung."""
    measured = [bench.measure(plan, fidelity(bench, "search", RUNG, 0)) for plan in plans]
    return min(measured, key=lambda m: math.inf if m.loss is None else m.loss).plan


def pruned(
    prepared: Prepared, bench: Bench, context: AllocationContext, share: int, asked: argparse.Namespace
) -> Iterator[tuple[str, list[Plan]]]:
    """The ways to a size and their plans, one for each rate."""
    methods = context.methods
    low, high = methods["lora"].learning_rate_range
    rates = [low * (high / low) ** position for position in POSITIONS]
    policy = baseline_policies(context, learning_rate=1.0)["LoRA on all linear maps"]
    parent = parent_of(bench, [plan_of(replace(policy, learning_rate=rate), context) for rate in rates])
    tried = [factor * parent.learning_rate for factor in asked.factors]
    if share == 1:
        yield "parent", [replace(parent, learning_rate=rate) for rate in tried]
        return
    most = parent.trainable_params // share
    costs = {site.name: site.in_features + site.out_features for site in context.sites}
    lost, singular = importances(bench, parent, RUNG, ablates="ablation" in asked.ways)
    per_parameter = {a.site: lost.get(a.site, 0.0) / (costs[a.site] * a.rank) for a in parent.adapters}
    numbers = np.random.default_rng(0).random(len(parent.adapters))
    at_random = dict(zip((a.site for a in parent.adapters), numbers, strict=True))
    early = (
        importances(bench, parent, FIRST_RUNG, ablates=False)[1] if "singular18" in asked.ways else singular
    )
    scale = methods["lora"].scale
    plans = {
        "ablation": fewer_sites(parent, per_parameter, most, costs),
        "singular": fewer_ranks(parent, singular, most, costs, scale),
        "singular18": fewer_ranks(parent, early, most, costs, scale),
        "singular one scale": fewer_ranks(parent, singular, most, costs, None),
        "random": fewer_sites(parent, at_random, most, costs),
    }
    for way, plan in plans.items():
        if way in asked.ways:
            print(size_of_ranks(way, plan), file=sys.stderr, flush=True)
        yield way, [replace(plan, learning_rate=rate) for rate in tried]
    small = replace(context, max_params=most)
    if "spectrum" in asked.ways:
        (score,) = sensitivity(prepared, ["spectrum"]).scores
        profiles = dict(zip((site.name for site in context.sites), score.profiles, strict=True))
        by_spectrum = replace(policy, exponent=1.0, ranks_by="spectrum")
        scored = small.with_scores(dict.fromkeys(profiles, 1.0), profiles)
        yield "spectrum", [plan_of(replace(by_spectrum, learning_rate=rate), scored) for rate in tried]
    loras = baseline_policies(small, learning_rate=1.0)
    for name, policy in loras.items():
        way = "q+v" if "q and v" in name else "all"
        yield way, [plan_of(replace(policy, learning_rate=rate), small) for rate in tried]
    for way, placement in (("everywhere", "all"), ("attention+up", "attention+up")):
        yield (
            way,
            [plan_of(Policy(method="lora", placement=placement, learning_rate=r), small) for r in tried],
        )
    for name in ("ia3", "road"):
        low, high = methods[name].learning_rate_range
        others = [low * (high / low) ** position for position in POSITIONS]
        arms = [plan_of(Policy(method=name, learning_rate=rate), small) for rate in others]
        if arms[0].adapters:
            yield name, arms


def rows(source: str, asked: argparse.Namespace, done: set[tuple[str, ...]]) -> Iterator[tuple[Any, ...]]:
    """One row for each run that is not done yet."""
    name = Path(source).name
    task = "token-classification" if name in TAGGED else "text-classification"
    prepared = prepare(RunSpec(data=DataSpec(source=source), task=TaskSpec(name=task)))
    max_params = parse("0.5%", base_params=prepared.base.base_params).max_trainable_params
    context = AllocationContext(
        sites=prepared.base.sites,
        scores={site.name: 1.0 for site in prepared.base.sites},
        methods=prepared.methods,
        max_params=max_params,
        profiles={},
    )
    with tempfile.TemporaryDirectory() as folder:
        bench = replace(
            prepared.bench, keep_weights=lambda plan, seed: Path(folder) / f"{plan.digest}-{seed}"
        )
        for size in asked.sizes:
            for way, plans in pruned(prepared, bench, context, SHARES[size], asked):
                for plan, seed in itertools.product(plans if way in asked.ways else (), asked.seeds):
                    key = (name, size, way, f"{plan.learning_rate:.4g}", str(seed))
                    if key not in done:
                        seen = bench.measure(plan, fidelity(bench, "confirm", asked.steps, seed))
                        yield (*key, plan.trainable_params, seen.loss, seen.metric)


def summary(out: Path) -> None:
    """Of each way and size the mean metric of the rate that is better, and its parameters."""
    with out.open(encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    scores: dict[tuple[str, str, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    params = {}
    for row in table:
        cell = (row["data"], row["size"], row["way"])
        scores[cell][row["learning_rate"]].append(100 * float(row["metric"] or "nan"))
        params[cell] = int(row["params"])
    print("| set | size | way | parameters | confirm, mean of two seeds |\n|---|---|---|---:|---:|")
    for (data, size, way), by_rate in scores.items():
        best = max(float(np.mean(values)) for values in by_rate.values())
        print(f"| {data} | {size} | {way} | {params[data, size, way]:,} | {best:.1f} |")


def main() -> None:
    """Measure every way that the file lacks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--data", nargs="+", default=[])
    parser.add_argument("--sizes", nargs="+", choices=SHARES, default=tuple(SHARES))
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    parser.add_argument("--seeds", nargs="+", type=int, default=(1, 2))
    parser.add_argument("--factors", nargs="+", type=float, default=FACTORS, help="on the parent's rate")
    parser.add_argument("--summary", action="store_true")
    asked = parser.parse_args()
    if asked.summary:
        summary(asked.out)
        return
    done: set[tuple[str, ...]] = set()
    if asked.out.exists():
        with asked.out.open(encoding="utf-8") as file:
            done = {tuple(row[field] for field in FIELDS[:5]) for row in csv.DictReader(file)}
    for source in asked.data:
        for row in rows(source, asked, done):
            is_new = not asked.out.exists()
            with asked.out.open("a", newline="", encoding="utf-8") as file:
                csv.writer(file).writerows([FIELDS, row] if is_new else [row])
            print(*row, flush=True)


if __name__ == "__main__":
    main()

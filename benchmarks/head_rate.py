"""How fast should a new task head learn? Full runs of one LoRA at several head rates, on many datasets.

    python benchmarks/head_rate.py OUT.csv --data FOLDER [--sets NAME …] [--rows 400 2500] [--seeds 1 2]

MiniLM-L6, LoRA on q and v under a budget of 0.2 %, epochs and batch size as a search derives them. A row of
OUT.csv is a run. `n_rows` rows of the train file are given to a search. The adapter is judged on the
validation file and up to 1,000 train rows that are left over, which may choose a rate, and on the test file,
which may not. `start` says how the head starts: drawn at random, or as a linear probe of the frozen model's
features of the train rows (classes alone). `move` is how far a step of AdamW at the head's rate moves an
output (`autopeft.train.rates`). Rows that OUT.csv holds are not measured again.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rows import SETS, TAGS, append, measured_keys, splits_of, write_splits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import KFold, cross_val_score
from sklearn.preprocessing import StandardScaler
from torch import nn

from autopeft import train
from autopeft.records import BudgetSpec, DataSpec, Fidelity, OutputSpec, RunSpec, TaskSpec
from autopeft.run.prepare import prepare
from autopeft.run.search_problem import fit_to_budget, requested_space
from autopeft.space import Policy, plan_of
from autopeft.train import bench as bench_module

MOVES = (2.0, 0.5, 0.125)
STARTS = ("random", "probe")
FIELDS = (
    *("data", "n_rows", "seed", "start", "move", "n_labels", "n_steps", "batch_size", "metric"),
    *("judged", "judged_loss", "test", "test_loss", "train_loss", "seconds"),
)


def probe(bench: train.Bench) -> tuple[torch.Tensor, torch.Tensor]:
    """Fit weight (out, in) and bias of the output layer to the frozen features of the train rows."""
    base, labels = bench.base, list[int]()
    layer: Any = base.module.get_submodule(str(base.output_layer))
    features = list[torch.Tensor]()
    hook = layer.register_forward_pre_hook(lambda _, inputs: features.append(inputs[0].float()))
    n_rows = len(bench.splits["train"].labels)
    with torch.no_grad():
        base.module.eval()
        for start in range(0, n_rows, 64):
            batch = bench._batch("train", list(range(start, min(start + 64, n_rows))))
            with base.autocast():
                bench.task.loss(base.module, batch)
            is_labelled = batch["labels"] >= 0  # of the tokens of a row, or of all rows
            features[-1] = features[-1][is_labelled]
            labels += batch["labels"][is_labelled].tolist()
    hook.remove()
    scaler = StandardScaler()
    scaled = scaler.fit_transform(torch.cat(features).numpy())
    folds = KFold(3, shuffle=True, random_state=0)
    models = [LogisticRegression(C=c, max_iter=200) for c in (1e-3, 1e-2, 1e-1)]
    best = max(models, key=lambda model: cross_val_score(model, scaled, labels, cv=folds).mean())
    best.fit(scaled, labels)
    coefficients, intercepts = best.coef_, best.intercept_
    if len(best.classes_) == 2:
        coefficients, intercepts = (np.stack([-each[0], each[0]]) / 2 for each in (coefficients, intercepts))
    n_outputs = layer.out_features
    weight, bias = np.zeros((n_outputs, scaled.shape[1])), np.full(n_outputs, -5.0)
    weight[best.classes_], bias[best.classes_] = coefficients, intercepts
    weight /= scaler.scale_
    return torch.tensor(weight).float(), torch.tensor(bias - weight @ scaler.mean_).float()


def runs_of(folder: Path, name: str, *, n_rows: int, seed: int, runs: list[tuple[str, float]]) -> Any:
    """Yield a row of the table for each move."""
    splits = splits_of(folder / name, n_rows, seed)
    with tempfile.TemporaryDirectory() as scratch:
        scratch_path = Path(scratch)
        write_splits(splits, scratch_path)
        spec = RunSpec(
            data=DataSpec(source=scratch),
            task=TaskSpec(name="token-classification" if name in TAGS else "text-classification"),
            budget=BudgetSpec(requested="0.2%"),
            output=OutputSpec(out=f"{scratch}/run"),
        )
        prepared = prepare(spec, keep_weights=lambda plan, seed: scratch_path / "weights")
        context = fit_to_budget(prepared.spec, prepared.base, requested_space(spec))[1]
        low, high = context.methods["lora"].learning_rate_range
        policy = Policy(method="lora", placement="q+v", learning_rate=low * (high / low) ** 0.38)
        plan, bench, usual = plan_of(policy, context), prepared.bench, prepared.bench.head_rates
        runs = [each for each in runs if each[0] == "random" or prepared.data.target.kind != "number"]
        fitted = probe(bench) if any(start == "probe" for start, _ in runs) else None
        usual_groups = bench_module.parameter_groups
        for start, move in runs:
            started, losses = time.perf_counter(), []

            def started_groups(model: nn.Module, *args: Any, start: str = start, **more: Any) -> Any:
                if start == "probe":
                    for path, module in model.named_modules():
                        if ".modules_to_save." in path and isinstance(module, nn.Linear):
                            last = module
                    with torch.no_grad():
                        last.weight.copy_(fitted[0])
                        last.bias.copy_(fitted[1])
                return usual_groups(model, *args, **more)

            bench_module.parameter_groups = started_groups
            vars(bench)["head_rates"] = usual.at(usual.output * move / usual.move)
            fidelity = Fidelity(
                split="confirm",
                train_steps=prepared.full_steps,
                train_examples=prepared.full_steps * bench.batch_size,
                eval_examples=prepared.n_evaluated("confirm"),
                seed=seed,
            )
            with train.watched(lambda step, n_steps, loss, losses=losses: losses.append(loss())):
                judged = bench.measure(plan, fidelity)
            n_test = prepared.n_evaluated("test")
            test = bench.measure(plan, replace(fidelity, split="test", eval_examples=n_test))
            last = losses[-max(1, len(losses) // 10) :]
            yield (
                *(
                    name,
                    n_rows,
                    seed,
                    start,
                    f"{move:g}",
                    len(prepared.data.target.names or ()),
                    prepared.full_steps,
                ),
                *(bench.batch_size, prepared.task.metric, judged.metric, judged.loss, test.metric, test.loss),
                *(f"{np.mean(last):.4f}", f"{time.perf_counter() - started:.1f}"),
            )


def main() -> None:
    """Measure what the table lacks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", default=list(SETS))
    parser.add_argument("--rows", type=int, nargs="+", default=[400, 2500])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--moves", type=float, nargs="+", default=list(MOVES))
    parser.add_argument("--starts", nargs="+", default=list(STARTS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    keys = ("data", "n_rows", "seed", "start", "move")
    measured = measured_keys(options.out, keys)
    for seed, n_rows, name in product(options.seeds, options.rows, options.sets):
        runs = [
            (start, move)
            for start, move in product(options.starts, options.moves)
            if (name, str(n_rows), str(seed), start, f"{move:g}") not in measured
        ]
        if not runs:
            continue
        for row in runs_of(options.data, name, n_rows=n_rows, seed=seed, runs=runs):
            append(options.out, FIELDS, row)


if __name__ == "__main__":
    main()

"""Steps of the training loop against a loop of 30 lines, and the share of the processor's own matrix rate.

    python reports/speed/minimal_loop.py [--batch-size 56] [--dtype auto] [--quick] [--out FILE.csv]

LoRA on all linear maps of MiniLM-L6 at 0.5 %, on the sample dataset; 56 sentences are about 1,000 tokens.
Both loops train the same plan from the same batches in the same number format, in alternating blocks of
steps; numbers are medians over blocks. The matrix rate is that of products of the model's own shapes in
bfloat16, weighted by their flops; the share counts all flops of a step, those of attention and adapters too.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from autopeft.adapters import compile_plan
from autopeft.extension import Batch
from autopeft.model import Precision
from autopeft.pipeline.prepare import Prepared, prepare
from autopeft.records import Adapter, ExecutionSpec, Fidelity, Plan, RunSpec, TaskSpec
from autopeft.train.encoding import train_rows

RATE = 4e-3
SEED = 0


def uniform_lora(prepared: Prepared) -> Plan:
    """LoRA of the largest rank that 0.5 % of the model pays on all linear maps."""
    lora = prepared.methods["lora"]
    sites = [site for site in prepared.base.sites if lora.refusal(site) is None]

    def cost(rank: int) -> int:
        return sum(lora.cost(site, rank, {}) for site in sites)

    rank = max(rank for rank in range(1, 65) if cost(rank) <= 0.005 * prepared.base.base_params)
    adapters = tuple(Adapter(method="lora", site=site.name, rank=rank, scale=2.0) for site in sites)
    return Plan(adapters=adapters, learning_rate=RATE, trainable_params=cost(rank))


def batches_of(prepared: Prepared, n_steps: int) -> list[Batch]:
    """The batches that the training loop sees."""
    split, bench = prepared.bench.splits["train"], prepared.bench
    steps = train_rows(split.lengths, n_steps=n_steps, batch_size=bench.batch_size, seed=SEED)
    return [
        prepared.task.collate(
            [split.examples[i] for i in rows], [split.labels[i] for i in rows], prepared.base.pad_token_id
        )
        for rows in steps
    ]


def train_minimal(model: nn.Module, batches: Sequence[Batch], *, precision: Precision) -> float:
    """The hand-written loop; returns its seconds."""
    started = time.perf_counter()
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=RATE, weight_decay=0.0, fused=True)
    rates = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, len(batches))
    model.train()
    for batch in batches:
        with precision.autocast(torch.device("cpu")):
            loss = model(**batch).loss
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        rates.step()
    return time.perf_counter() - started


def matrix_rate(prepared: Prepared, n_tokens: int, *, seconds: float) -> float:
    """Flops per second of bfloat16 products of n_tokens rows with maps of the model's shapes."""
    sites = [site for site in prepared.base.sites if site.kind == "linear" and site.layer is not None]
    shapes = Counter((site.in_features, site.out_features) for site in sites)
    flops = spent = 0.0
    for (n_in, n_out), n_maps in shapes.items():
        rows = torch.randn(n_tokens, n_in, dtype=torch.bfloat16)
        weight = torch.randn(n_out, n_in, dtype=torch.bfloat16)
        times: list[float] = []
        while sum(times) < seconds / len(shapes):
            started = time.perf_counter()
            nn.functional.linear(rows, weight)
            times.append(time.perf_counter() - started)
        flops += n_maps * 2.0 * n_tokens * n_in * n_out
        spent += n_maps * median(times)
    return flops / spent


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--batch-size", type=int, default=56)
    parser.add_argument("--dtype", default=None, help="the default of autopeft unless given")
    parser.add_argument("--quick", action="store_true", help="one block of two steps, to see that it runs")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    n_blocks, n_steps = (1, 2) if given.quick else (6, 20)
    execution = ExecutionSpec(device="cpu", **({"dtype": given.dtype} if given.dtype else {}))
    spec = RunSpec(task=TaskSpec(batch_size=given.batch_size), execution=execution)
    prepared = prepare(spec)
    bench, plan = prepared.bench, uniform_lora(prepared)
    precision = prepared.base.precision
    fidelity = Fidelity(
        split="confirm",
        train_steps=n_steps,
        train_examples=n_steps * bench.batch_size,
        eval_examples=1,
        seed=SEED,
    )
    batches, configs = batches_of(prepared, n_steps), compile_plan(plan, prepared.methods).configs
    context: dict[str, Any] = {"plan": plan, "task_type": prepared.task.peft_task_type, "seed": SEED}
    ours, minimal = [], []
    for _ in range(n_blocks + (not given.quick)):  # the first block is a warm-up
        ours.append(bench.measure(plan, fidelity).train_seconds / n_steps)
        with prepared.base.attached(configs, **context) as model, precision.multiplying():
            minimal.append(train_minimal(model, batches, precision=precision) / n_steps)
    with prepared.base.attached(configs, **context) as model, FlopCounterMode(display=False) as counter:
        train_minimal(model, batches, precision=precision)
    n_tokens = sum(batch["input_ids"].numel() for batch in batches) / n_steps
    flops = counter.get_total_flops() / n_steps
    rate = matrix_rate(prepared, round(n_tokens), seconds=0.1 if given.quick else 4.0)
    ours, minimal = ours[-n_blocks:], minimal[-n_blocks:]
    ratio = median(a / b for a, b in zip(ours, minimal, strict=True))
    rows = [
        ("number format", f"{precision.dtype}, float32 products {precision.matmul}"),
        ("tokens a step, padding included", f"{n_tokens:.0f}"),
        ("ms a step, autopeft", f"{1e3 * median(ours):.1f}"),
        ("ms a step, minimal loop", f"{1e3 * median(minimal):.1f}"),
        ("autopeft / minimal, median over blocks", f"{ratio:.3f}"),
        ("Gflop a step", f"{flops / 1e9:.1f}"),
        ("bfloat16 matrix rate, Gflop/s", f"{rate / 1e9:.0f}"),
        ("share of the matrix rate, autopeft", f"{flops / rate / median(ours):.3f}"),
        ("share of the matrix rate, minimal loop", f"{flops / rate / median(minimal):.3f}"),
    ]
    print(f"| {torch.get_num_threads()} threads | |\n|---|---|")
    for name, value in rows:
        print(f"| {name} | {value} |")
    if given.out is not None:
        with given.out.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([("what", "value"), *rows])


if __name__ == "__main__":
    main()

"""Seconds of a training step on this CPU, against what `autopeft estimate --device cpu` expects.

    python reports/studies/step_time.py NAME=MODEL:TASK:ROWSxTOKENS,… … [--out CSV]

The points are those of `resident_memory.py`: LoRA of rank 16 at all sites, rows of equal length. The first
steps of a process are slower and are not counted: what is measured is a longer run less a shorter one.
"""

from __future__ import annotations

import argparse
import csv
from dataclasses import replace
from pathlib import Path

from resident_memory import TRAINED, points_of, prepared_step

from autopeft import pipeline

FEW, MANY = 2, 8  # steps
COLUMNS = ("name", "rows", "tokens", "seconds", "expected_seconds", "ratio")


def measured(model: str, task: str, n_rows: int, n_tokens: int) -> float:
    """Seconds of a step."""
    prepared, plan, most = prepared_step(model, task, n_rows, n_tokens, quantize="none", n_steps=MANY)
    few = replace(most, train_steps=FEW, train_examples=FEW * n_rows)
    short, long = (prepared.bench.measure(plan, fidelity).train_seconds for fidelity in (few, most))
    return (long - short) / (MANY - FEW)


def expected(model: str, n_rows: int, n_tokens: int) -> float:
    """Seconds of the same step, from the model's config and a probe of this machine."""
    request = pipeline.EstimateRequest(
        trained=TRAINED,
        model_id=model,
        batch_size=n_rows,
        max_length=n_tokens,
        device="cpu",
        checkpointing="off",
    )
    seconds = pipeline.estimate_step(request).answer.step.seconds
    assert seconds is not None
    return seconds


def main() -> None:
    """Measure each point, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("models", nargs="+", help="such as smollm2=FOLDER:text-generation:1x128,4x256")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    rows = []
    print("| model | rows x tokens | step, s | expected, s | ratio |\n|---|---|---:|---:|---:|")
    for name, model, task, n_rows, n_tokens in points_of(given.models):
        seconds, told = measured(model, task, n_rows, n_tokens), expected(model, n_rows, n_tokens)
        values = (name, n_rows, n_tokens, round(seconds, 4), round(told, 4), round(told / seconds, 3))
        print(
            f"| {name} | {n_rows} x {n_tokens} | {seconds:.3f} | {told:.3f} | {values[-1]:.2f} |",
            flush=True,
        )
        rows.append(values)
    if given.out is not None:
        with given.out.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([COLUMNS, *rows])


if __name__ == "__main__":
    main()

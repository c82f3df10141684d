"""Peak resident memory of training on a CPU, against what `autopeft estimate --device cpu` expects.

    python reports/studies/resident_memory.py NAME=MODEL:TASK:ROWSxTOKENS,… … [--quantize 4bit] [--out CSV]

Each point is a process of its own: it loads the model, attaches LoRA of rank 16 at all sites and trains two
steps of so many rows of so many tokens, as a search does, without checkpointing. Compared is the peak
resident size of the whole process (VmHWM) from the end of loading on, with Python and its libraries. The
peak of loading stands beside it: `estimate` says nothing of it.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from autopeft import estimate, pipeline
from autopeft.pipeline.prepare import Prepared, prepare
from autopeft.records import Fidelity, Plan, RunSpec

TRAINED, STEPS = "lora_r16", 2
COLUMNS = "name rows tokens baseline_bytes loading_bytes peak_bytes expected_bytes high_bytes error".split()


def resident(key: str) -> int:
    """A size of this process in bytes: VmRSS now, VmHWM the highest."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(key))


def prepared_step(
    model: str, task: str, n_rows: int, n_tokens: int, *, quantize: str, n_steps: int
) -> tuple[Prepared, Plan, Fidelity]:
    """A loaded model, LoRA at all its sites, and a few steps of rows that are all of the same length."""
    label = {} if task == "text-generation" else {"label": "0"}
    rows = [
        {"text": f"{i} " + "here stands a word " * n_tokens} | {name: str(i % 2) for name in label}
        for i in range((n_steps + 2) * n_rows + 40)
    ]
    with tempfile.TemporaryDirectory() as name:
        data = Path(name) / "rows.jsonl"
        data.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
        wish = {
            "model": {"id": model, "quantize": quantize},
            "data": {"source": str(data)},
            "task": {"name": task, "batch_size": n_rows, "max_length": n_tokens, "max_steps": n_steps},
            "execution": {
                "device": "cpu",
                "micro_batch_tokens": n_rows * n_tokens,
                "checkpointing": "off",
            },
        }
        prepared = prepare(RunSpec.model_validate(wish))
    plan = estimate.by_name(TRAINED, prepared.methods).on(prepared.base, prepared.methods)
    fidelity = Fidelity(
        split="search", train_steps=n_steps, train_examples=n_steps * n_rows, eval_examples=1, seed=0
    )
    return prepared, replace(plan, learning_rate=1e-5), fidelity


def points_of(entries: Iterable[str]) -> Iterator[tuple[str, str, str, int, int]]:
    """Name, model, task, rows and tokens of each point of `NAME=MODEL:TASK:ROWSxTOKENS,…`."""
    for entry in entries:
        name, rest = entry.split("=", 1)
        model, task, points = rest.rsplit(":", 2)
        for point in points.split(","):
            n_rows, n_tokens = map(int, point.split("x"))
            yield name, model, task, n_rows, n_tokens


def measure(model: str, task: str, n_rows: int, n_tokens: int, *, quantize: str) -> dict[str, int]:
    """Train in this process, and give its sizes in bytes."""
    baseline = resident("VmRSS")
    prepared, plan, fidelity = prepared_step(model, task, n_rows, n_tokens, quantize=quantize, n_steps=STEPS)
    loading = resident("VmHWM")
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # forgets the peak so far
    measurement = prepared.bench.measure(plan, fidelity)
    assert measurement.error is None, measurement.error
    return {"baseline_bytes": baseline, "loading_bytes": loading, "peak_bytes": resident("VmHWM")}


def expected(model: str, n_rows: int, n_tokens: int, *, quantize: str) -> dict[str, int]:
    """What `autopeft estimate` says of the same step."""
    request = pipeline.EstimateRequest(
        trained=TRAINED,
        model_id=model,
        batch_size=n_rows,
        max_length=n_tokens,
        quantize=quantize,
        device="cpu",
        checkpointing="off",
    )
    memory = pipeline.estimate_step(request, rates=estimate.rates_of("l4")).answer.step.memory
    return {"expected_bytes": memory.expected, "high_bytes": memory.high}


def main() -> None:
    """Measure each point in a process of its own, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("models", nargs="*", help="such as smollm2=FOLDER:text-generation:1x128,4x256")
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)  # a point, in a fresh process
    parser.add_argument("--quantize", default="none", choices=("none", "4bit", "8bit"))
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    if given.one:
        model, task, n_rows, n_tokens = given.one
        print(json.dumps(measure(model, task, int(n_rows), int(n_tokens), quantize=given.quantize)))
        return
    rows = []
    print("| model | rows x tokens | peak, MB | expected, MB | error, % |\n|---|---|---:|---:|---:|")
    for name, model, task, n_rows, n_tokens in points_of(given.models):
        command = [sys.executable, __file__, "--one", model, task, str(n_rows), str(n_tokens)]
        command += ["--quantize", given.quantize]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        row = {"name": name, "rows": n_rows, "tokens": n_tokens}
        row |= json.loads(done.stdout.splitlines()[-1])
        row |= expected(model, n_rows, n_tokens, quantize=given.quantize)
        row["error"] = round(row["expected_bytes"] / row["peak_bytes"] - 1, 4)
        sizes = f"{row['peak_bytes'] / 1e6:,.0f} | {row['expected_bytes'] / 1e6:,.0f}"
        print(f"| {name} | {n_rows} x {n_tokens} | {sizes} | {100 * row['error']:+.1f} |", flush=True)
        rows.append(row)
    if given.out is not None:
        with given.out.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()

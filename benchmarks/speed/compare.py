"""Seconds per training example of a whole search: `naive.py`, `fair.py` and `autopeft`, side by side.

    python benchmarks/speed/compare.py [--data FOLDER] [--trials N] [--steps S] [--quick] [--out FILE.csv]

All three search plain LoRA on the demo's MiniLM-L6, with batches of 32 and S steps in full for N proposals.
autopeft trains two of them in full, and the others in short runs: each time is divided by the training
examples that adapters saw. A time is that of the whole process: imports, loading, training,
evaluation and report. Nothing is warmed up before.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from autopeft.model import resolve
from autopeft.types import ModelSpec

HERE = Path(__file__).parent
_BATCH_SIZE = 32
SAMPLE = HERE.parents[1] / "autopeft" / "sample_data" / "uci_sentiment"


@dataclass(frozen=True, kw_only=True)
class Timed:
    """A process that ran: seconds by the clock and of the processor, and what it printed."""

    seconds: float
    cpu_seconds: float
    output: str


def timed(command: list[str]) -> Timed:
    """Run a process to its end."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)
    seconds, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")
    cpu_seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Timed(seconds=seconds, cpu_seconds=cpu_seconds, output=done.stdout)


def trained_examples(run: Path) -> int:
    """Count the training examples of plans with adapters, baselines included."""
    with (run / "trials.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if int(row["trainable_params"])]
        return sum(_BATCH_SIZE * int(row["trained_steps"]) for row in rows)


def ours(data: Path, *, trials: int, steps: int) -> tuple[Timed, int, dict[str, float]]:
    """Search with autopeft; return its training examples and its seconds by kind of work."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        command = [sys.executable, "-m", "autopeft", "search", "--data", str(data), "--space", "lora_only"]
        command += ["--trials", str(trials), "--max-steps", str(steps), "--batch-size", str(_BATCH_SIZE)]
        command += ["--out", str(run), "--quiet"]
        result = timed(command)
        cost = json.loads((run / "result.json").read_text(encoding="utf-8"))["cost"]
        parts = {
            "load": cost["load_seconds"],
            "analyse": cost["sensitivity_seconds"],
            "train": cost["train_seconds"],
            "evaluate": cost["eval_seconds"],
        }
        return result, trained_examples(run), parts | {"other": result.seconds - sum(parts.values())}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=SAMPLE)
    parser.add_argument("--trials", type=int, default=6)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--quick", action="store_true", help="one trial of two steps, to see that it runs")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    trials, steps = (1, 2) if given.quick else (given.trials, given.steps)
    model, _ = resolve(ModelSpec())
    search, n_examples, parts = ours(given.data, trials=trials, steps=steps)
    per_example = {"autopeft": (search.seconds / n_examples, search.cpu_seconds / n_examples)}
    for name in ("fair", "naive"):
        command = [sys.executable, str(HERE / f"{name}.py"), "--model", model, "--data", str(given.data)]
        other = timed([*command, "--trials", str(trials), "--steps", str(steps)])
        n_seen = int(json.loads(other.output.splitlines()[-1])["train_examples"])
        per_example[name] = (other.seconds / n_seen, other.cpu_seconds / n_seen)
    print("| search | ms per example | × autopeft | processor ms per example | × autopeft |")
    print("|---|---|---|---|---|")
    rows = []
    for name, (seconds, cpu_seconds) in per_example.items():
        ratios = seconds / per_example["autopeft"][0], cpu_seconds / per_example["autopeft"][1]
        rows.append((name, 1e3 * seconds, ratios[0], 1e3 * cpu_seconds, ratios[1]))
        print("| {} | {:.2f} | {:.2f} | {:.2f} | {:.2f} |".format(*rows[-1]))
    print("\n| autopeft | seconds | share |\n|---|---|---|")
    for name, seconds in parts.items():
        print(f"| {name} | {seconds:.1f} | {seconds / search.seconds:.0%} |")
    if given.out is not None:
        with given.out.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("what", "ms_per_example", "ratio", "cpu_ms_per_example", "cpu_ratio"))
            writer.writerows(rows)
            writer.writerows(
                (f"autopeft {name}", 1e3 * s / n_examples, "", "", "") for name, s in parts.items()
            )


if __name__ == "__main__":
    main()

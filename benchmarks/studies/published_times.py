"""Published time of training steps, and what a step replayed without weights gives.

    python benchmarks/studies/published_times.py HISTORY.jsonl [--out FILE.md]

HISTORY.jsonl is that of `published_memory.py`, whose replays these are: peft's method comparison on an L40S,
4 rows a step. Its `curve` gives the seconds of every 250 steps, without evaluation. A config counts once,
with the median over the runs under torch 2.8 or later; earlier ones took a quarter longer.

Rows are taken to have the mean number of tokens of the run and 3 % of padding, since that benchmark sorts
them by length within 20 batches. Three constants are fitted on every second config, and tested on the others:
the shares of the data sheet that products and memory traffic reach, and the time between two kernels.
"""

from __future__ import annotations

import itertools
import json
import warnings
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np
import peft
import torch
import transformers
from published_memory import N_ROWS, Script, StandInArrays, model_of, run_study

from autopeft.estimate import CARDS, Rates, Replay, TrainingStep, rates_of

STEPS = 250  # between two points of a curve
PADDING = 1.03  # heuristic
NEAR = 0.25
CARD = CARDS["l40s"]
# Why the replay differs, from the code of peft; none of it was run on a GPU.
REASONS = {
    "adamss-rank32": "k-means and many small products per layer; the replay has stand-in values there",
    "boft-default": "a permutation matrix per layer stays on the CPU and is copied in each step; its kernels "
    "for blocks of four are far from a card's rates",
    "frod-default": "products with a sparse matrix, which the replay has as a dense one",
    "frod-sparse0.02-lr_0.001": "as frod-default",
    "lora-rank10-target-mlp": "not explained",
    "psoft-default": "iterations for an orthogonal matrix in small kernels",
}
_TAKEN = rates_of("l40s")
TAKEN = (
    _TAKEN.flops / (1e12 * CARD.tflops),
    _TAKEN.bytes / (1e9 * CARD.gb_per_second),
    _TAKEN.call_seconds,
)


@dataclass(frozen=True, kw_only=True)
class Noted(Rates):
    """Rates of a device that takes no time, and notes the operations and bytes of each kernel."""

    kernels: list[tuple[int, int]] = field(default_factory=list, compare=False)

    def of_kernel(self, flops: int, n_bytes: int) -> float:
        """Take no time."""
        self.kernels.append((flops, n_bytes))
        return 0.0


@dataclass(frozen=True)
class Timed:
    """A config: seconds of its published steps, and the operations and bytes of each replayed kernel."""

    name: str
    published: float
    n_runs: int
    work: np.ndarray

    def predicted(self, flops_share: float, bytes_share: float, call_seconds: float) -> float:
        """Predict the seconds of a step."""
        flops, n_bytes = self.work
        products = flops / (flops_share * CARD.tflops * 1e12)
        traffic = n_bytes / (bytes_share * CARD.gb_per_second * 1e9)
        return max(float(np.maximum(products, traffic).sum()), len(flops) * call_seconds)

    def error(self, constants: tuple[float, float, float]) -> float:
        """Return the error relative to the published time."""
        return self.predicted(*constants) / self.published - 1


def configs_of(path: Path) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Read each experiment and its runs under a new torch."""
    runs = defaultdict(list)
    for line in path.read_text(encoding="utf-8").splitlines():
        run = json.loads(line)
        version = run["packages"]["torch-version"].split("+")[0].split(".")
        if run["max_tokens"] == 768 and not run["gradient_checkpointing"] and int(version[1]) >= 8:
            runs[run["experiment"]].append(run)
    yield from sorted(runs.items())


def seconds_of(run: dict[str, Any]) -> float:
    """Return the median of a run's curve."""
    return median(point["train_time"] for point in run["curve"]) / STEPS


def timed(experiment: str, runs: Sequence[dict[str, Any]]) -> Timed:
    """Replay a config once."""
    final = runs[-1]["final"]
    n_tokens = round(PADDING * final["train total tokens"] / final["train samples"])
    ids = torch.zeros(N_ROWS, n_tokens, dtype=torch.long)
    noted = Noted(name="", flops=1.0, bytes=1.0, call_seconds=0.0, runs_ahead=True)
    batch = {"input_ids": ids, "attention_mask": ids, "labels": ids}
    step = TrainingStep(batch=batch, loss=Script(), foreach=True, on_gpu=True, rates=noted)
    with StandInArrays():
        n_calls = Replay(model_of(runs[-1])).memory(step).n_calls
    return Timed(
        name=experiment.replace("/llama-3.2-3B", ""),
        published=median(map(seconds_of, runs)),
        n_runs=len(runs),
        work=np.array(noted.kernels[-n_calls:], dtype=float).T,
    )


def fit(configs: Sequence[Timed]) -> tuple[float, float, float]:
    """Fit the constants with the smallest mean absolute error."""
    grid = itertools.product(np.arange(0.2, 0.96, 0.05), np.arange(0.3, 1.51, 0.05), np.arange(1, 16) * 1e-6)
    return min(grid, key=lambda point: fmean(abs(config.error(point)) for config in configs))


def summary(configs: Sequence[Timed], constants: tuple[float, float, float]) -> str:
    """Format how many are near, and the median of the absolute errors."""
    errors = [abs(config.error(constants)) for config in configs]
    n_near = sum(error <= NEAR for error in errors)
    return f"{n_near} of {len(errors)} within {NEAR:.0%}, median {median(errors):.1%}"


def words(constants: tuple[float, float, float]) -> str:
    """Format the constants."""
    flops, n_bytes, call = constants
    return f"{flops:.0%} of the operations, {n_bytes:.0%} of the traffic, {1e6 * call:.0f} µs a kernel"


def table(configs: Sequence[Timed]) -> str:
    """Format the Markdown page."""
    halves = (configs[::2], configs[1::2])
    constants, other = fit(halves[0]), fit(halves[1])
    lines = [
        "# Time of a step: published, and replayed without weights",
        "",
        f"Made by `python benchmarks/studies/published_times.py HISTORY.jsonl` with peft {peft.__version__}, "
        f"torch {torch.__version__}, transformers {transformers.__version__}, on a CPU; see the script.",
        "",
        f"- Fitted on every second config, beginning with the first: {words(constants)}.",
        f"- On those configs: {summary(halves[0], constants)}.",
        f"- **On the others, which the fit has not seen: {summary(halves[1], constants)}.**",
        f"- On all: {summary(configs, constants)}.",
        f"- Fitted on the others: {words(other)}; on the first half they give {summary(halves[0], other)}.",
        f"- `autopeft estimate` takes {words(TAKEN)}: {summary(configs, TAKEN)}.",
        "",
        "| config | runs | published, ms | replayed, ms | error | kernels | TFLOP | half |",
        "|---|---:|---:|---:|---:|---:|---:|---|",
    ]
    for index, config in enumerate(configs):
        error = config.error(constants)
        shown = f"**{error:+.0%}**" if abs(error) > NEAR else f"{error:+.0%}"
        lines.append(
            f"| {config.name} | {config.n_runs} | {1e3 * config.published:.0f} | "
            f"{1e3 * config.predicted(*constants):.0f} | {shown} | {config.work.shape[1]:,} | "
            f"{config.work[0].sum() / 1e12:.1f} | {'test' if index % 2 else 'fit'} |"
        )
    far = [config.name for config in configs if abs(config.error(constants)) > NEAR]
    lines += ["", f"Why some differ by more than {NEAR:.0%}:", ""]
    lines += [f"- {name}: {REASONS.get(name, 'not explained')}." for name in far]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    warnings.simplefilter("ignore")
    run_study(__doc__, configs_of, timed, table)

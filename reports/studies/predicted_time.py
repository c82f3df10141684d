"""How long a search takes, as told before it starts, and measured.

    python reports/studies/predicted_time.py OUT.csv --data FOLDER --models FOLDER [--cells NAME ...]
    python reports/studies/predicted_time.py --summary OUT.csv

FOLDER of data holds the sets by name, that of models `all-mpnet-base-v2` and SmolLM2-135M as a GGUF file. A
cell is a search at default settings but for its length. Three numbers are told before it starts: the
seconds of the whole search and R, by two timed steps of the baseline (`search --dry-run`), and the time of
a step from the config alone (`estimate --device cpu --data`). Then the search runs. The row has both, and
after the first rung the time left that the search showed beside the time that it still took.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from autopeft import model, pipeline
from autopeft.records import (
    BudgetSpec,
    DataSpec,
    Measurement,
    ModelSpec,
    OutputSpec,
    RunSpec,
    TaskSpec,
)

SMOL = "SmolLM2-135M-Instruct.Q4_1.gguf"
# Model, dataset, task, budget, steps of a full run.
CELLS = {
    "demo": (None, None, "text-classification", "0.5%", None),
    "snips_intent": (None, "snips_intent", "text-classification", "0.1%", 300),
    "stsb": (None, "stsb", "text-classification", "0.1%", 300),
    "wnut17": (None, "wnut17", "token-classification", "0.1%", 200),
    "mpnet": ("all-mpnet-base-v2", "uci_sentiment", "text-classification", "0.1%", 60),
    "e2e": (SMOL, "e2e_nlg", "text-generation", "0.1%", 40),
}


@dataclass
class Watch:
    """A display that notes the time left as it was shown when the first rung had ended."""

    started: float = field(default_factory=time.monotonic)
    n_phases: int = 0
    left: float | None = None
    shown: tuple[float, float] | None = None  # seconds since the start, and seconds left

    def phase(self, name: str, n_measurements: int) -> None:
        """The phases are sensitivity, rung 1, rung 2 and so on."""
        self.n_phases += 1
        if self.n_phases == 3 and self.left is not None:
            self.shown = (time.monotonic() - self.started, self.left)

    def measured(
        self, measurement: Measurement, *, arm: str, is_baseline: bool, seconds_left: float | None
    ) -> None:
        """Note the time left."""
        self.left = seconds_left

    def close(self) -> None:
        """Nothing."""


def row_of(name: str, data: Path, models: Path) -> dict[str, object]:
    """One cell: told, then measured."""
    model_name, set_name, task, budget, n_steps = CELLS[name]
    source = None if set_name is None else str(data / set_name)
    spec = RunSpec(
        model=ModelSpec(id=None if model_name is None else str(models / model_name)),
        data=DataSpec(source=source),
        task=TaskSpec(name=task, max_steps=n_steps),
        budget=BudgetSpec(requested=budget),
    )
    given = frozenset() if n_steps is None else frozenset({"task.max_steps", "data.source", "task.name"})
    told = pipeline.preview(spec, given=given).forecast
    assert told is not None
    step_seconds: float | str = ""
    if source is not None and model_name != SMOL:  # a GGUF file has no config.json
        run = pipeline.RunRequest(task=task, data=source, max_steps=n_steps)
        model_id = model.resolve(spec.model)[0]
        request = pipeline.EstimateRequest(trained="lora_r8", model_id=model_id, device="cpu", run=run)
        estimated = pipeline.estimate_step(request).answer.typical.seconds
        step_seconds = "" if estimated is None else round(estimated, 4)
    watch, started = Watch(), time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        output = OutputSpec(out=str(Path(folder) / "run"))
        spec = spec.model_copy(update={"output": output})
        result, _ = pipeline.search(spec, given=given, progress=watch)
    seconds = time.monotonic() - started
    steps = [
        m.train_seconds / m.trained_steps
        for m in result.measurements
        if m.plan.adapters == result.baseline.adapters and m.trained_steps
    ]
    at, left = watch.shown or ("", "")
    return {
        "cell": name,
        **{end: round(value, 1) for end, value in vars(told.seconds).items()},
        "measured": round(seconds, 1),
        "told_r": round(told.full_run_seconds, 1),
        "measured_r": round(result.cost.full_run_seconds or 0.0, 1),
        "search_r": round(result.cost.total_full_runs or 0.0, 2),
        "estimated_step": step_seconds,
        "measured_step": round(sum(steps) / len(steps), 4) if steps else "",
        "left_after_rung_1": "" if left == "" else round(float(left), 1),
        "took_after_rung_1": "" if at == "" else round(seconds - float(at), 1),
    }


def summary(path: Path) -> str:
    """A Markdown table of the rows."""
    with path.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    lines = [
        "| search | told, s | took, s | error | R told, s | R, s | all, R | left told, s | left, s |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        error = float(row["expected"]) / float(row["measured"]) - 1
        lines.append(
            f"| {row['cell']} | {row['expected']} ({row['low']} to {row['high']}) | {row['measured']} "
            f"| {error:+.0%} | {row['told_r']} | {row['measured_r']} | {row['search_r']} "
            f"| {row['left_after_rung_1']} | {row['took_after_rung_1']} |"
        )
    return "\n".join(lines)


def measure(out: Path, data: Path, models: Path, cells: Sequence[str]) -> None:
    """Measure the cells that the table lacks."""
    done = set()
    if out.exists():
        with out.open(encoding="utf-8") as file:
            done = {row["cell"] for row in csv.DictReader(file)}
    for name in cells:
        if name in done:
            continue
        row = row_of(name, data, models)
        is_new = not out.exists()
        with out.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, row)
            if is_new:
                writer.writeheader()
            writer.writerow(row)
        print(row, flush=True)


def main() -> None:
    """Measure, or print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path, nargs="?")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--models", type=Path)
    parser.add_argument("--cells", nargs="+", default=list(CELLS), choices=list(CELLS))
    parser.add_argument("--summary", type=Path)
    given = parser.parse_args()
    if given.summary is not None:
        print(summary(given.summary))
    else:
        measure(given.out, given.data, given.models, given.cells)


if __name__ == "__main__":
    main()

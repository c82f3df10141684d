"""Measures the cells of the benchmark: every plan at every rung, and in full on confirm and test.

    python benchmarks/tabular/measure.py --data FOLDER --models FOLDER [--cells NAME …] [--workers 2]
                                        [--positions P …] [--minutes M] [--out FOLDER] [--list | --describe]

A plan is trained with seed 0 for each rung, as a short run of the search, and measured on the search split. A
rung goes on from where the one before it began to decay. It is trained once in full with seed 101, measured
on confirm and test; the better half of a cell's plans, by their loss on confirm, in full with seed 102 too.
Each worker has one thread. Rows that OUT holds are not measured again, so that a stopped run goes on;
`--minutes` ends it after the plans under way, and `--positions` measures only the plans at these positions of
the learning rate (0.38 0.62 0.5 are about half of a cell). `--describe` measures nothing and writes
`cell.json`, what `replay.py` has to know of a cell beside its rows.
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

from table import EXAMPLE_FIELDS, FIELDS, FULL_SEEDS, SEARCH_SEED, packed

if TYPE_CHECKING:
    from cells import Candidate, Cell

    from autopeft.setup.build import Prepared
    from autopeft.space import AllocationContext
    from autopeft.train import Bench

HERE = Path(__file__).parent
Job = tuple[int, str]  # index of a candidate; "rungs", or a seed of a full run
Rows = list[tuple[dict[str, Any], tuple[float, ...]]]  # with the scores of the examples

_PARENT_SECONDS = 2.0  # between two looks whether the parent is alive
_STATE: dict[str, Any] = {}  # of a worker: its bench, its candidates and its cell


def start_worker(cell: Cell, data: Path, models: Path, parent: int) -> None:
    """Load the base model and the data of a cell in a worker process."""
    import torch

    from autopeft.model import quiet_libraries

    torch.set_num_threads(1)
    Thread(target=_end_with, args=(parent,), daemon=True).start()
    with quiet_libraries():
        _STATE["bench"], _STATE["candidates"] = prepared_cell(cell, data, models)
    _STATE["cell"] = cell


def _end_with(parent: int) -> None:
    """End this process once its parent has: a worker of a killed pool would wait for work forever."""
    while os.getppid() == parent:
        time.sleep(_PARENT_SECONDS)
    os._exit(1)


def prepared_cell(cell: Cell, data: Path, models: Path) -> tuple[Bench, list[Candidate]]:
    """The bench of a cell and its candidates."""
    from cells import candidates

    prepared, context = prepare_cell(cell, data, models)
    return prepared.bench, list(candidates(context, head_rates=prepared.bench.head_rates.alone()))


def prepare_cell(cell: Cell, data: Path, models: Path) -> tuple[Prepared, AllocationContext]:
    """Model and data of a cell, and what its plans are allocated by."""
    from autopeft.setup.build import prepare
    from autopeft.setup.scoring import sensitivity
    from autopeft.space import AllocationContext
    from autopeft.types import RunSpec

    spec = RunSpec()
    topics = {
        "model": {"id": None if cell.model is None else str(models / cell.model)},
        "data": {"source": str((models if cell.data.startswith("tiny-vit/") else data) / cell.data)},
        "task": {
            "name": cell.task,
            "batch_size": cell.batch_size,
            "max_length": cell.max_length,
            "max_steps": cell.full,
        },
        "budget": {"requested": cell.budget},
    }
    spec = spec.model_copy(
        update={name: getattr(spec, name).model_copy(update=update) for name, update in topics.items()}
    )
    folder = Path(tempfile.mkdtemp(prefix="benchmark-"))
    prepared = prepare(spec)
    bench = replace(
        prepared.bench,
        keep_weights=lambda plan, seed: folder / f"weights-{plan.digest}-{seed}",
        under_way=lambda plan, fidelity: folder / f"state-{plan.digest}-{fidelity.seed}",
    )
    prepared = replace(prepared, bench=bench)
    names = [target.name for target in prepared.base.targets]
    (score,) = sensitivity(prepared, ["gradient"]).scores
    context = AllocationContext(
        targets=prepared.base.targets,
        scores=dict(zip(names, score.values, strict=True)),
        methods=prepared.bench.methods,
        max_params=prepared.budget.max_trainable_params,
    )
    return prepared, context


def write_description(cell: Cell, folder: Path, data: Path, models: Path) -> None:
    """Write the description of a cell into its folder."""
    import description
    from cells import candidates

    from autopeft.model import quiet_libraries

    with quiet_libraries():
        prepared, context = prepare_cell(cell, data, models)
        plans = candidates(context, head_rates=prepared.bench.head_rates.alone())
        description.write(folder, description.describe(cell, prepared, context, plans))


def measure(job: Job) -> Rows:
    """The rows of one job, in a worker."""
    import shutil

    from autopeft.types import EvaluatedSplit, Fidelity

    bench, cell = _STATE["bench"], _STATE["cell"]
    index, what = job
    candidate = _STATE["candidates"][index]
    sizes = {split: len(encoded.labels) for split, encoded in bench.splits.items()}

    def fidelity(split: EvaluatedSplit, steps: int, seed: int) -> Fidelity:
        most = {"search": cell.search_examples, "confirm": cell.confirm_examples, "test": cell.test_examples}
        return Fidelity(
            split=split,
            train_steps=steps,
            train_examples=steps * bench.batch_size,
            eval_examples=min(sizes[split], most[split]),
            seed=seed,
        )

    if what == "rungs":
        fidelities = [fidelity("search", steps, SEARCH_SEED) for steps in cell.rungs]
    else:
        fidelities = [
            fidelity(split, cell.full, int(what)) for split in ("confirm", "test") if split in sizes
        ]
    rows: Rows = []
    for wanted in fidelities:
        seen = bench.measure(candidate.plan, wanted)
        row = {
            "arm": candidate.arm,
            "position": candidate.position,
            "plan": candidate.plan.digest,
            "trainable_params": candidate.plan.trainable_params,
            "learning_rate": candidate.plan.learning_rate,
            "split": wanted.split,
            "steps": wanted.train_steps,
            "seed": wanted.seed,
            "status": seen.status.value,
            "loss": _short(seen.loss),
            "metric": _short(seen.metric),
            "trained_steps": seen.trained_steps,
            "train_seconds": round(seen.train_seconds, 3),
            "eval_examples": wanted.eval_examples,
            "eval_seconds": round(seen.eval_seconds, 3),
            "peak_bytes": seen.peak_bytes,
            "error": seen.error or "",
        }
        rows.append((row, seen.example_scores))
        if seen.error:
            break  # a run that diverged has no later rung and no weights
    shutil.rmtree(bench.under_way(candidate.plan, fidelities[0]), ignore_errors=True)
    if what != "rungs":
        shutil.rmtree(bench.keep_weights(candidate.plan, int(what)), ignore_errors=True)
    return rows


def _short(value: float | None) -> str:
    return "" if value is None else f"{value:.7g}"


class Table:
    """The rows of a cell on the disk: `trials.csv`, and `examples.csv` with the scores of examples."""

    def __init__(self, folder: Path) -> None:
        """Open a folder, which need not exist."""
        self.folder = folder
        self.rows: list[dict[str, str]] = []
        if (folder / "trials.csv").exists():
            with (folder / "trials.csv").open(encoding="utf-8", newline="") as file:
                self.rows = list(csv.DictReader(file))

    def add(self, rows: Rows) -> None:
        """Append rows; those of one job at once, so that a job is there or not."""
        self.folder.mkdir(parents=True, exist_ok=True)
        keys = EXAMPLE_FIELDS[:-1]
        examples = [[*(row[key] for key in keys), packed(scores)] for row, scores in rows if scores]
        _append(self.folder / "examples.csv", EXAMPLE_FIELDS, examples)
        _append(self.folder / "trials.csv", FIELDS, [[row[field] for field in FIELDS] for row, _ in rows])
        self.rows += [{field: str(row[field]) for field in FIELDS} for row, _ in rows]

    def done(self) -> set[tuple[str, str]]:
        """Plan and job of every job whose rows are there."""
        return {(row["plan"], "rungs" if row["split"] == "search" else row["seed"]) for row in self.rows}

    def better_half(self) -> set[str]:
        """Plans with the lower losses on confirm, of those in full with the first seed."""
        seed = str(FULL_SEEDS[0])
        losses = {
            row["plan"]: float(row["loss"])
            for row in self.rows
            if row["split"] == "confirm" and row["seed"] == seed and row["loss"]
        }
        return set(sorted(losses, key=lambda plan: losses[plan])[: -(-len(losses) // 2)])


def _append(path: Path, fields: list[str], rows: list[list[Any]]) -> None:
    is_new = not path.exists()
    with path.open("a", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([fields, *rows] if is_new else rows)


def jobs(table: Table, plans: Mapping[int, str]) -> Iterator[Job]:
    """What is missing: rungs and one full run of every plan, then the second seed of the better half."""
    done = table.done()
    for index, plan in plans.items():
        for what in ("rungs", str(FULL_SEEDS[0])):
            if (plan, what) not in done:
                yield index, what


def second_jobs(table: Table, plans: Mapping[int, str]) -> Iterator[Job]:
    """The second full run of the better half, where it is missing."""
    done, better, seed = table.done(), table.better_half(), str(FULL_SEEDS[1])
    for index, plan in plans.items():
        if plan in better and (plan, seed) not in done:
            yield index, seed


def measure_cell(name: str, cell: Cell, given: argparse.Namespace, *, ends: float) -> bool:
    """Measure what a cell lacks; returns whether the time was up before its end."""
    table = Table(given.out / name)
    with ProcessPoolExecutor(
        max_workers=given.workers,
        mp_context=get_context("spawn"),
        initializer=start_worker,
        initargs=(cell, given.data, given.models, os.getpid()),
    ) as pool:
        plans = pool.submit(digests, given.positions).result()
        for stage in (jobs, second_jobs):
            waiting = list(stage(table, plans))
            print(f"{name}: {len(waiting)} jobs of {stage.__name__}", flush=True)
            running: set[Future[Rows]] = set()
            while waiting or running:
                while waiting and len(running) < given.workers and time.monotonic() < ends:
                    running.add(pool.submit(measure, waiting.pop(0)))
                if not running:
                    return True
                finished, running = wait(running, return_when=FIRST_COMPLETED)
                for future in finished:
                    table.add(future.result())
                    row = table.rows[-1]
                    print(name, *(row[f] for f in FIELDS[:2]), *(row[f] for f in FIELDS[5:11]), flush=True)
    return False


def digests(positions: list[float]) -> dict[int, str]:
    """The digests of a worker's candidates at these positions, or at all, by their index."""
    return {
        index: candidate.plan.digest
        for index, candidate in enumerate(_STATE["candidates"])
        if not positions or candidate.position in positions
    }


def main() -> None:
    """Read the arguments and measure."""
    from cells import CELLS

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="the folder that holds the sets")
    parser.add_argument("--models", type=Path, required=True, help="the folder that holds the models")
    parser.add_argument("--cells", nargs="*", default=list(CELLS), choices=list(CELLS), metavar="NAME")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--positions", type=float, nargs="*", default=[], metavar="P")
    parser.add_argument("--minutes", type=float, default=float("inf"))
    parser.add_argument("--out", type=Path, default=HERE / "tables")
    parser.add_argument("--list", action="store_true", help="print the candidates of each cell and end")
    parser.add_argument("--describe", action="store_true", help="write cell.json of each cell and end")
    given = parser.parse_args()
    if given.describe:
        for name in given.cells:
            write_description(CELLS[name], given.out / name, given.data, given.models)
        return
    if given.list:
        for name in given.cells:
            for candidate in prepared_cell(CELLS[name], given.data, given.models)[1]:
                plan = candidate.plan
                print(name, candidate.arm, candidate.position, plan.learning_rate, plan.trainable_params)
        return
    os.environ |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(HERE), *sys.path])}
    ends = time.monotonic() + 60 * given.minutes
    for name in given.cells:
        if measure_cell(name, CELLS[name], given, ends=ends):
            return


if __name__ == "__main__":
    main()

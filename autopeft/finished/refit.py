"""The refit: the best plan is trained once more on all rows, those that judged it included."""

from __future__ import annotations

import shutil
from dataclasses import replace

from autopeft.engine import SearchProblem, full_run
from autopeft.errors import TrainingError
from autopeft.executors import EXECUTORS
from autopeft.setup.build import Prepared, prepare, with_all_rows
from autopeft.store import RunDir, fresh_folder, read_record, write_record
from autopeft.train import Bench
from autopeft.types import Fidelity, Measurement, Refit, SearchResult, Status

REFIT = "refit.json"  # next to its weights: the record of a refit
_LEAST_HELD_OUT = 0.05  # of all rows; below it a refit hardly changes the adapter; heuristic


def refit_cost(prepared: Prepared) -> float:
    """Return the steps of the refit over those of a full run; 0 if `--refit` or the rows rule it out."""
    n_train, wanted = len(prepared.data.joined("train", "search").labels), prepared.spec.search.refit
    n_rows = n_train + len(prepared.data.confirm.labels)
    is_left_out = wanted == "auto" and n_rows - n_train < _LEAST_HELD_OUT * n_rows
    return 0.0 if wanted == "off" or is_left_out else n_rows / n_train


def kept_refit(run: RunDir, result: SearchResult) -> Refit | None:
    """Read the refit of the best plan that an earlier call finished; None without one."""
    path = run.refit(result.best, _seed(result)) / REFIT
    try:
        return read_record(path, Refit, remedy=f"remove {path.parent}")
    except FileNotFoundError:
        return None


def refit(run: RunDir, prepared: Prepared, problem: SearchProblem, result: SearchResult) -> Refit:
    """Train the best plan on all rows, as `autopeft train --all-rows` does.

    A training that was stopped is resumed.

    Raises:
        AutopeftError: The rows or the model cannot be prepared again, the training failed, or the disk is
            full.
    """
    if not EXECUTORS[prepared.spec.execution.executor].shares_memory:  # the weights left for the workers
        prepared = prepare(prepared.spec).kept_in(run)
    prepared = with_all_rows(prepared)
    seed = _seed(result)
    test, folder = prepared.lengths.test(seed=seed), run.refit(result.best, seed)
    under_way = folder.with_name(f"{folder.name}.unfinished")
    shutil.rmtree(folder, ignore_errors=True)
    with fresh_folder(folder) as fresh:
        bench = replace(
            prepared.bench, keep_weights=lambda *_: fresh, under_way=lambda *_: under_way, curve=None
        )
        measurement = bench.measure(result.best, on_all_rows(prepared, seed))
        if measurement.status is Status.COMPLETE:
            measurement = tested(measurement, bench, test)
        if not measurement.status.is_of_machine:
            shutil.rmtree(under_way, ignore_errors=True)
        if measurement.status is not Status.COMPLETE:
            raise TrainingError(f"its training failed: {measurement.reason}")
        refitted = Refit(
            train_rows=len(prepared.data.train.labels),
            train_steps=prepared.full_steps,
            seconds=measurement.total_seconds,
            measurement=replace(measurement, example_scores=()),
            test=full_run(problem, "refit", [measurement]) if test.eval_examples else None,
        )
        write_record(fresh / REFIT, refitted)
    return refitted


def on_all_rows(prepared: Prepared, seed: int) -> Fidelity:
    """Return the fidelity of a training on all rows but those of test: their score would say nothing."""
    return replace(prepared.lengths.full(seed=seed), eval_examples=1)


def tested(trained: Measurement, bench: Bench, test: Fidelity) -> Measurement:
    """Replace the scores of a training on all rows by those of the test split; by none without one."""
    if not test.eval_examples:
        return replace(trained, metric=None, loss=None, example_scores=())
    found = bench.measure(trained.plan, test)
    return replace(
        found,
        train_seconds=trained.train_seconds,
        trained_steps=trained.trained_steps,
        eval_seconds=trained.eval_seconds + found.eval_seconds,
        overhead_seconds=trained.overhead_seconds + found.overhead_seconds,
        peak_bytes=trained.peak_bytes,
    )


def _seed(result: SearchResult) -> int:
    return next(record.seeds[0] for record in result.full_runs if record.plan == result.best)

"""The refit: the best plan is trained once more on all rows, those that judged it included."""

from __future__ import annotations

import shutil
from dataclasses import replace

from autopeft.engine import SearchProblem, full_run
from autopeft.errors import TrainingError
from autopeft.executors import EXECUTORS
from autopeft.setup.build import Prepared, prepare, with_all_rows
from autopeft.store import RunDir, fresh_folder, read_record, write_record
from autopeft.types import Fidelity, Refit, SearchResult, Status

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
    n_steps, n_test, seed = prepared.full_steps, prepared.n_evaluated("test"), _seed(result)
    fidelity = Fidelity(
        split="confirm",
        train_steps=n_steps,
        train_examples=n_steps * prepared.bench.batch_size,
        eval_examples=1,  # the rows were trained on, so that their score says nothing
        seed=seed,
    )
    folder = run.refit(result.best, seed)
    under_way = folder.with_name(f"{folder.name}.unfinished")
    shutil.rmtree(folder, ignore_errors=True)
    with fresh_folder(folder) as fresh:
        bench = replace(
            prepared.bench, keep_weights=lambda *_: fresh, under_way=lambda *_: under_way, curve=None
        )
        runs = [bench.measure(result.best, fidelity)]
        measurement = replace(runs[0], metric=None, loss=None, example_scores=())
        if n_test and runs[0].status is Status.COMPLETE:
            tested = bench.measure(result.best, replace(fidelity, split="test", eval_examples=n_test))
            runs.append(tested)
            measurement = replace(
                measurement,
                fidelity=tested.fidelity,
                eval_seconds=tested.eval_seconds,
                metric=tested.metric,
                loss=tested.loss,
            )
        if not runs[-1].status.is_of_machine:
            shutil.rmtree(under_way, ignore_errors=True)
        if runs[-1].status is not Status.COMPLETE:
            raise TrainingError(f"its training failed: {runs[-1].reason}")
        refitted = Refit(
            train_rows=len(prepared.data.train.labels),
            train_steps=n_steps,
            seconds=sum(each.total_seconds for each in runs),
            measurement=measurement,
            test=full_run(problem, "refit", runs[1:]) if n_test else None,
        )
        write_record(fresh / REFIT, refitted)
    return refitted


def _seed(result: SearchResult) -> int:
    return next(record.seeds[0] for record in result.full_runs if record.plan == result.best)

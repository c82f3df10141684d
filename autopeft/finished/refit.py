"""The refit: the best plan is trained once more on all rows, those that judged it included."""

from __future__ import annotations

import logging
import shutil
from dataclasses import replace
from pathlib import Path

from autopeft.engine import SearchProblem, full_run
from autopeft.executors import EXECUTORS
from autopeft.setup.build import Prepared, prepare, with_all_rows
from autopeft.store import RunDir, fresh_folder, read_record, write_record
from autopeft.types import Fidelity, Measurement, Plan, Refit, SearchResult, Status

_LEAST_HELD_OUT = 0.05  # of all rows; below it a refit hardly changes the adapter; heuristic

log = logging.getLogger(__name__)


def refit_cost(prepared: Prepared) -> float:
    """Return the steps of the refit over those of a full run; 0 if `--refit` or the rows rule it out."""
    n_train, wanted = len(prepared.data.joined("train", "search").labels), prepared.spec.search.refit
    n_rows = n_train + len(prepared.data.confirm.labels)
    is_left_out = wanted == "auto" and n_rows - n_train < _LEAST_HELD_OUT * n_rows
    return 0.0 if wanted == "off" or is_left_out else n_rows / n_train


def kept_refit(run: RunDir, result: SearchResult) -> Refit | None:
    """Read the refit of the best plan that an earlier call finished; None without one."""
    folder = run.refit(result.best, _seed(result))
    record = _record_path(folder)
    if not (record.is_file() and folder.is_dir()):
        return None
    return read_record(record, Refit, remedy=f"remove {record}")


def refit(run: RunDir, prepared: Prepared, problem: SearchProblem, result: SearchResult) -> Refit | None:
    """Train the best plan on all rows, as `autopeft train --all-rows` does.

    A training that was stopped is resumed. Returns None, with a warning, if the training fails: then the
    adapter that was judged is returned to the user.

    Raises:
        AutopeftError: The rows or the model cannot be prepared again, or the disk is full.
    """
    seed = _seed(result)
    folder = run.refit(result.best, seed)
    shutil.rmtree(folder, ignore_errors=True)
    if not EXECUTORS[prepared.spec.execution.executor].shares_memory:  # the weights left for the workers
        prepared = prepare(prepared.spec, interrupt=prepared.bench.interrupt)
    prepared = with_all_rows(prepared)
    runs = _measured(prepared, result.best, seed, folder)
    trained, tested = runs[0], runs[1] if len(runs) > 1 else None
    if runs[-1].status is not Status.COMPLETE:
        shutil.rmtree(folder)
        log.warning("The refit on all rows failed (%s); the judged adapter is returned.", runs[-1].reason)
        return None
    measurement = replace(trained, metric=None, loss=None, example_scores=())
    if tested is not None:
        measurement = replace(
            measurement,
            fidelity=tested.fidelity,
            eval_seconds=tested.eval_seconds,
            metric=tested.metric,
            loss=tested.loss,
        )
    refitted = Refit(
        train_rows=len(prepared.data.train.labels),
        train_steps=prepared.full_steps,
        seconds=sum(each.total_seconds for each in runs),
        measurement=measurement,
        test=None if tested is None else full_run(problem, "refit", [tested]),
    )
    write_record(_record_path(folder), refitted)
    return refitted


def _measured(prepared: Prepared, plan: Plan, seed: int, folder: Path) -> list[Measurement]:
    """Train a plan into a folder, and evaluate it on the test split if there is one."""
    n_steps, n_test = prepared.full_steps, prepared.n_evaluated("test")
    fidelity = Fidelity(
        split="confirm",
        train_steps=n_steps,
        train_examples=n_steps * prepared.bench.batch_size,
        eval_examples=1,  # the rows were trained on, so that their score says nothing
        seed=seed,
    )
    under_way = folder.with_name(f"{folder.name}.unfinished")
    with fresh_folder(folder) as fresh:
        bench = replace(
            prepared.bench, keep_weights=lambda *_: fresh, under_way=lambda *_: under_way, curve=None
        )
        runs = [bench.measure(plan, fidelity)]
        if runs[0].status is Status.COMPLETE and n_test:
            runs.append(bench.measure(plan, replace(fidelity, split="test", eval_examples=n_test)))
    if not runs[-1].status.is_of_machine:
        shutil.rmtree(under_way, ignore_errors=True)
    return runs


def _seed(result: SearchResult) -> int:
    return next(record.seeds[0] for record in result.full_runs if record.plan == result.best)


def _record_path(folder: Path) -> Path:
    """Return the file next to the weights of a refit that is written once they are complete."""
    return folder.with_name(f"{folder.name}.json")

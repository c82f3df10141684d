"""`train`: train a plan at full length and save the adapter; a training that is stopped can be resumed."""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from autopeft import train
from autopeft.adapters import check_plan, other_base_note
from autopeft.errors import RunDirError, SpecError, TrainingError
from autopeft.exports import write_loading_files
from autopeft.finished.refit import on_all_rows, tested
from autopeft.finished.training_notes import base_facts, plan_document, training_json
from autopeft.plugins import is_own_metric, own_function
from autopeft.report.formatting import duration
from autopeft.report.trackers import check_trackers, logged_curve
from autopeft.report.write_card import TRAINED, write_trained_card
from autopeft.setup.build import Prepared, prepare, with_all_rows
from autopeft.setup.resuming import loaded_facts
from autopeft.setup.search_facts import environment, setting_of
from autopeft.store import (
    TRAINING,
    RunDir,
    fresh_folder,
    is_run,
    locked_folder,
    read_plan,
    read_record,
    refuse_files,
    whole_path,
    write_plan,
    write_record,
    write_text,
)
from autopeft.store.state import differences
from autopeft.train import SCHEDULE, kept_step
from autopeft.types import (
    Fidelity,
    Measurement,
    OutputSpec,
    Plan,
    PlanDocument,
    RunSpec,
    SearchSpec,
    Status,
    TrainedPlan,
    to_json,
)

CURVE = "curve.jsonl"  # next to the weights: loss, learning rate, gradient norm and speed every ten steps
_SECONDS = 10.0  # between two log lines about the steps; heuristic
AS_PLANNED = RunSpec()  # no setting replaces one of the plan
_LENGTHS = frozenset({"task.epochs", "task.max_steps"})

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A trained plan: its measurement, and the folder of its adapter.

    The scores are of the confirm split. If all rows were trained on, they are of the test split, or None.
    `metric` is the name of the task's metric, and `is_share` whether it lies in [0, 1].
    """

    measurement: Measurement
    metric: str
    is_share: bool
    folder: Path


def train_plan(
    path: Path,
    requested: RunSpec = AS_PLANNED,
    *,
    out: Path | None = None,
    seed: int | None = None,
    resume: bool = False,
    all_rows: bool = False,
) -> Trained:
    """Train a plan at full length and save the adapter in `peft`'s format, head included.

    A training that is stopped leaves nothing in `out`. After the first minute its state is kept in
    `<out>.unfinished`; `resume` continues it to the same bits.

    Args:
        path: plan.yaml or a run directory.
        requested: What is set of `model.id`, `model.quantize`, `data.source` (it must have the columns that
            the plan names), `task.epochs` and `task.max_steps` replaces what the plan says. `execution` and
            `output.report_to` are read too, and no other settings.
        out: Folder for the adapter; must be empty or absent. None is `reports/adapter-<plan>-<seed>`.
        seed: None uses the plan's seed.
        resume: Continue a training that was stopped; plan, seed, model and data must be the same.
        all_rows: Train on the rows of search and confirm too, for as many epochs as the plan says.

    Raises:
        SpecError: No dataset is named.
        RunDirError: `out` is not empty, or cannot be written. Or there is nothing to resume, or without
            `resume` a training was stopped in `out`.
        TrainingError: The run failed or diverged; nothing is left in `out`.
    """
    document = read_plan(path)
    seed = document.seed if seed is None else seed
    name = f"adapter-{document.plan.digest}-{seed}" + ("-all-rows" if all_rows else "")
    target = out or Path("reports") / name
    unfinished = target.absolute().with_name(f"{target.absolute().name}.unfinished")
    refuse_files(target)  # before any work
    _check_unfinished(unfinished, resume=resume)
    prepared = _prepare(path, document, requested, all_rows=all_rows)
    fidelity = on_all_rows(prepared, seed) if all_rows else prepared.lengths.full(seed=seed)
    facts = _facts(prepared, document.plan, fidelity)
    with _kept(unfinished, facts, resume=resume) as state, fresh_folder(target) as fresh:
        curve = unfinished / CURVE
        bench = replace(
            prepared.bench, keep_weights=lambda *_: fresh, under_way=lambda *_: state, curve=lambda *_: curve
        )
        with (
            logged_curve(prepared.spec, curve, target) as log_new_points,
            train.watched(_Steps(log_new_points).add),
        ):
            measurement = bench.measure(document.plan, fidelity)
        if measurement.status is not Status.COMPLETE:
            if not measurement.status.is_of_machine:  # it would fail in the same way again
                shutil.rmtree(unfinished, ignore_errors=True)
            raise TrainingError(f"Training plan {document.plan.digest} failed: {measurement.reason}.")
        if all_rows:
            measurement = tested(measurement, bench, prepared.lengths.test(seed=seed))
            if measurement.status is not Status.COMPLETE:
                log.warning("The adapter has no score on the test split: %s.", measurement.reason)
        if curve.exists():  # a plan without parameters trains nothing
            shutil.copyfile(curve, fresh / CURVE)
        _write_files(fresh, prepared, measurement, at=f"./{target.name}")
    return Trained(
        measurement=measurement,
        metric=prepared.task.metric.name,
        is_share=prepared.task.metric.is_share,
        folder=target,
    )


def _facts(prepared: Prepared, plan: Plan, fidelity: Fidelity) -> dict[str, Any]:
    """Return all that the bits of the adapter depend on."""
    return {
        **loaded_facts(prepared),
        "plan": plan.digest,
        "seed": fidelity.seed,
        "steps": fidelity.train_steps,
        "train rows": len(prepared.data.train.labels),
        "batch size": prepared.bench.batch_size,
        "number format": prepared.spec.execution.dtype,
        "quantization": prepared.spec.model.quantize,
    }


def _prepare(path: Path, document: PlanDocument, requested: RunSpec, *, all_rows: bool) -> Prepared:
    """Load the data and the model of a plan, and check that the plan fits them."""
    _require_data(path, document, requested.data.source)
    if document.schedule != SCHEDULE:
        log.warning("The training does not follow the schedule in %s, but its own: %s.", path, SCHEDULE)
    spec = spec_of_plan(document, requested)
    check_trackers(spec)
    if is_own_metric(spec.task.metric):
        own_function(str(spec.task.metric))  # raises for a bad one before the model is loaded
    prepared = prepare(spec)
    if (head_rate := document.head_learning_rate) and not _LENGTHS & requested.explicit:
        # For another length it is derived again, since it depends on the epochs.
        bench = replace(prepared.bench, head_learning_rate=head_rate / document.plan.head_factor)
        prepared = replace(prepared, bench=bench)
    prepared = with_all_rows(prepared) if all_rows else prepared
    check_plan(document.plan, prepared.base, prepared.bench.methods)
    if note := other_base_note(document, prepared.base):
        log.warning("%s", note)
    return prepared


def _require_data(path: Path, document: PlanDocument, data_source: str | None) -> None:
    """Raise SpecError if neither the user nor the plan names a dataset, unless the plan is of the demo.

    A pushed plan, for example, names none. It would be trained on the demo's sentences otherwise.
    """
    if data_source or document.data.source or document.model.id is None:
        return
    folders = (path, *path.absolute().parents)
    run = next((folder for folder in folders if is_run(folder)), None)
    if run is None or RunDir.open(run).read_spec().data.source is not None:
        raise SpecError(f"{path} names no dataset to train on; pass one with --data.")


def spec_of_plan(document: PlanDocument, requested: RunSpec) -> RunSpec:
    """Return the settings of a plan, with those that are requested instead.

    The data is split by the plan's seed, so that the confirm split is that of its search.
    """
    if document.plan.learning_rate <= 0:
        raise SpecError(f"The plan's learning rate is {document.plan.learning_rate}; it must be above 0.")
    explicit, wanted = requested.explicit, requested.task
    base = document.model if requested.model.id is None else requested.model
    quantize = requested.model.quantize if "model.quantize" in explicit else document.model.quantize
    base_id = None if base.id is None else whole_path(base.id)
    source = requested.data.source or document.data.source
    task = document.task.model_copy(update={"metric": wanted.metric or document.task.metric})
    if _LENGTHS & explicit:
        task = task.model_copy(update={"epochs": wanted.epochs, "max_steps": wanted.max_steps})
    return RunSpec(
        model=base.model_copy(update={"id": base_id, "quantize": quantize}),
        execution=requested.execution,
        data=document.data.model_copy(update={"source": source}),
        task=task,
        search=SearchSpec(seed=document.seed),
        output=OutputSpec(report_to=requested.output.report_to),
    )


def _write_files(folder: Path, prepared: Prepared, measurement: Measurement, *, at: str) -> None:
    """Write all files next to the weights of a trained plan; its card loads the adapter from `at`."""
    plan, seed = measurement.plan, measurement.fidelity.seed
    write_plan(folder / "plan.yaml", replace(plan_document(prepared, plan), seed=seed))
    write_text(folder / TRAINING, training_json(measurement, base_facts(prepared)))
    trained = TrainedPlan(
        spec=prepared.spec,
        setting=setting_of(prepared, {}),
        best=plan,
        measurement=replace(measurement, example_scores=()),
        environment=environment(prepared.base, prepared.spec.execution),
    )
    write_text(folder / TRAINED, json.dumps(to_json(trained), indent=2) + "\n")
    write_loading_files(folder, prepared.spec.model, prepared.base, prepared.data)
    write_trained_card(folder, trained, at=at)


def _check_unfinished(folder: Path, *, resume: bool) -> None:
    """Raise RunDirError if `resume` finds no kept state, or a start without `resume` finds one."""
    step = kept_step(folder / "state")
    if resume and step is None:
        raise RunDirError(f"{folder} holds no unfinished training; start it without --resume.")
    if not resume and step is not None:
        raise RunDirError(
            f"{folder} holds a training that was stopped after step {step:,}; pass --resume to continue it, "
            "another --out, or remove that folder."
        )


@contextlib.contextmanager
def _kept(folder: Path, facts: Mapping[str, Any], *, resume: bool) -> Iterator[Path]:
    """Yield the folder for the state of a training; keep it if something stops the training.

    Raises:
        RunDirError: The training to resume started with other `facts`, or the folder is in use or cannot be
            written.
    """
    start, state, remedy = folder / "start.json", folder / "state", f"remove {folder} and start again"
    if resume:
        if differing := differences(read_record(start, dict[str, Any], remedy=remedy), facts):
            raise RunDirError(f"{folder} cannot be resumed: {differing}; restore it, or {remedy}.")
        log.info("The training continues after step %s.", f"{kept_step(state):,}")
    lock = locked_folder(folder)
    if not resume:
        shutil.rmtree(state, ignore_errors=True)
        (folder / CURVE).unlink(missing_ok=True)
        write_record(start, facts)
    try:
        yield state
    except BaseException:
        lock.release()
        if (step := kept_step(state)) is None:
            shutil.rmtree(folder, ignore_errors=True)
        else:
            log.warning("The state after step %s is kept; --resume continues it.", f"{step:,}")
        raise
    lock.release()
    shutil.rmtree(folder, ignore_errors=True)


class _Steps:
    """Logs the step, the loss and the time left of a training every ten seconds or so, and calls `then`."""

    def __init__(
        self, then: Callable[[], None] = lambda: None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._then, self._clock = then, clock
        self._started, self._first_step, self._last_step, self._last_logged = 0.0, 0, 0, 0.0

    def add(self, step: int, n_steps: int, loss: Callable[[], float]) -> None:
        """Note a step, and log it if the last line was logged ten seconds ago or more."""
        now = self._clock()
        if step <= self._last_step or not self._last_step:  # training began, maybe again in less memory
            self._started, self._first_step, self._last_logged = now, step, now
        self._last_step = step
        if now - self._last_logged >= _SECONDS:
            self._last_logged = now
            left = (now - self._started) / (step - self._first_step) * (n_steps - step)
            log.info("step %s of %s: loss %.4f, %s left", f"{step:,}", f"{n_steps:,}", loss(), duration(left))
            self._then()

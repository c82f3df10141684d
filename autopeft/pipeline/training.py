"""`train`: train a plan at full length and save the adapter."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from autopeft.adapters import check_plan, other_base_note
from autopeft.errors import SpecError, TrainingError
from autopeft.pipeline.best import plan_document, training_json
from autopeft.pipeline.environment import environment
from autopeft.pipeline.hub_folder import TRAINED, write_loading_files, write_trained_card
from autopeft.pipeline.plan_settings import note_schedule, require_data, spec_of_plan
from autopeft.pipeline.prepare import Prepared, prepare
from autopeft.pipeline.reporting import setting_of
from autopeft.pipeline.same_base import base_sample
from autopeft.pipeline.step_log import logged_steps
from autopeft.pipeline.unfinished import Unfinished, training_facts
from autopeft.records import (
    MAX_SEED,
    Fidelity,
    Measurement,
    Status,
    TrainedPlan,
    to_json,
)
from autopeft.store import (
    fresh_folder,
    read_plan,
    refuse_files,
    write_plan,
    write_text,
)
from autopeft.train import StateFolders, encode_ahead

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A trained plan: its measurement on the confirm split, and the folder of its adapter.

    `metric` is the name of the task's metric, and `is_share` whether it lies in [0, 1].
    """

    measurement: Measurement
    metric: str
    is_share: bool
    folder: Path


def train_plan(
    path: Path,
    *,
    out: Path | None = None,
    seed: int | None = None,
    model_id: str | None = None,
    data_source: str | None = None,
    overrides: Mapping[str, object] | None = None,
    resume: bool = False,
) -> Trained:
    """Train a plan at full length and save the adapter in `peft`'s format, head included.

    Steps are logged now and then. A run that is stopped leaves nothing in `out`; the state of one that took
    more than a minute lies beside it, in `<out>.unfinished`, from which `resume` goes on to the same bits.

    Args:
        path: plan.yaml or a run directory.
        out: Folder for the adapter; must be empty or absent. None is `reports/adapter-<plan>-<seed>`.
        seed: None takes the plan's seed.
        model_id: Base model to use instead of the plan's.
        data_source: Dataset to use instead of the plan's; it must have the columns that the plan names.
        overrides: Values of `model.quantize` and the settings of `execution`; None stands for the plan's
            quantisation, and for the defaults.
        resume: Go on with a training that was stopped; it has the same plan, seed, model and data.

    Raises:
        SpecError: The seed is out of range, or no dataset is named.
        RunDirError: `out` is not empty, or cannot be written; there is nothing to resume, or a training that
            was stopped and is not to be resumed.
        TrainingError: The run failed or diverged; nothing is left in `out`.
    """
    document = read_plan(path)
    seed = document.seed if seed is None else seed
    if not 0 <= seed <= MAX_SEED:
        raise SpecError(f"The seed is {seed}; pass --seed from 0 to {MAX_SEED:,}.")
    target = out or Path("reports") / f"adapter-{document.plan.digest}-{seed}"
    unfinished = Unfinished(out=target)
    refuse_files(target)  # before any work
    unfinished.check(resume=resume)
    require_data(path, document, data_source)
    note_schedule(path, document)
    spec = spec_of_plan(document, model_id, data_source, overrides or {})
    prepared = prepare(spec)
    check_plan(document.plan, prepared.base, prepared.methods)
    if note := other_base_note(document, prepared.base):
        log.warning("%s", note)
    fidelity = Fidelity(
        split="confirm",
        train_steps=prepared.full_steps,
        train_examples=prepared.full_steps * prepared.bench.batch_size,
        eval_examples=len(prepared.bench.splits["confirm"].labels),
        seed=seed,
    )
    encode_ahead(prepared.bench, [fidelity])
    with (
        logged_steps(kept=lambda: unfinished.words),
        unfinished.kept(training_facts(prepared, document.plan, fidelity), resume=resume),
        fresh_folder(target) as fresh,
    ):
        bench = replace(
            prepared.bench,
            keep_weights=lambda plan, seed: fresh,
            state_folders=StateFolders(under_way=lambda *_: unfinished.state),
        )
        measurement = bench.measure(document.plan, fidelity)
        if measurement.status is not Status.COMPLETE:
            if not measurement.status.is_of_machine:
                unfinished.forget()  # it would fail in the same way again
            raise TrainingError(f"Training plan {document.plan.digest} failed: {measurement.reason}.")
        _write_files(fresh, prepared, measurement, at=f"./{target.name}")
    return Trained(
        measurement=measurement,
        metric=prepared.task.metric,
        is_share=prepared.task.is_share,
        folder=target,
    )


def _write_files(folder: Path, prepared: Prepared, measurement: Measurement, *, at: str) -> None:
    """Write all that lies beside the weights of a trained plan; `at` is the place that its card names."""
    plan, seed = measurement.plan, measurement.fidelity.seed
    write_plan(folder / "plan.yaml", replace(plan_document(prepared, plan), seed=seed))
    known = training_json(measurement, base_sample=base_sample(prepared))
    write_text(folder / "training.json", known)
    write_loading_files(folder, prepared)
    trained = TrainedPlan(
        spec=prepared.spec,
        setting=setting_of(prepared, {}),
        best=plan,
        measurement=replace(measurement, example_scores=()),
        environment=environment(prepared.base, prepared.spec.execution),
    )
    write_text(folder / TRAINED, json.dumps(to_json(trained), indent=2) + "\n")
    write_trained_card(folder, trained, at=at)

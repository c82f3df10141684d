"""What is known of the training of an adapter that is exported: its plan, and the texts that it was given."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from autopeft import adapters
from autopeft.errors import SpecError
from autopeft.extension import TrainingFacts
from autopeft.pipeline.hub_folder import TRAINED
from autopeft.records import ModelSpec, PlanDocument, TrainedPlan, from_json
from autopeft.store import RunDir, read_plan


def plan_of(adapter: Path) -> PlanDocument | None:
    """The plan beside trained weights, or beside the folder `best/weights` of a run; None without one."""
    run = _run_of(adapter)
    path = adapter / "plan.yaml" if run is None else run / "best" / "plan.yaml"
    return read_plan(path) if path.is_file() else None


def training_facts(document: PlanDocument | None, spec: ModelSpec, folder: Path | None) -> TrainingFacts:
    """What a plan says of a full training run, and the result of its run, or of `train`, of the texts.

    `folder` is a run or an adapter.
    """
    if document is None:
        return TrainingFacts()
    task = document.task
    return TrainingFacts(
        learning_rate=adapters.common_learning_rate(document.plan),
        batch_size=task.batch_size,
        epochs=task.epochs,
        max_steps=task.max_steps,
        max_length=task.max_length,
        seed=document.seed,
        quantize=spec.quantize,
        text_form="" if folder is None else _text_form(folder),
    )


def _text_form(folder: Path) -> str:
    run = _run_of(folder) or folder
    if (run / "run.yaml").is_file():
        with contextlib.suppress(SpecError):  # a run that has not finished, or that another version wrote
            return RunDir.open(run).load_result().setting.text_form
    with contextlib.suppress(OSError, ValueError):  # of JSON, or of the record
        return from_json(TrainedPlan, json.loads((folder / TRAINED).read_bytes())).setting.text_form
    return ""


def _run_of(adapter: Path) -> Path | None:
    """The run of which a folder is `best/weights`; None for another folder."""
    whole = adapter.absolute()
    is_best = (whole.parent.name, whole.name) == ("best", "weights")
    run = whole.parent.parent
    return run if is_best and (run / "run.yaml").is_file() else None

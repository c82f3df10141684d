"""What is known of the training of an adapter that is exported: its plan, and the texts that it was given."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from autopeft import adapters
from autopeft.errors import SpecError
from autopeft.extension import TrainingFacts
from autopeft.pipeline.hub_folder import TRAINED
from autopeft.records import ModelSpec, PlanDocument, SearchResult, TaskSpec, TrainedPlan, from_json
from autopeft.store import RunDir, read_plan


def plan_of(adapter: Path) -> PlanDocument | None:
    """The plan beside trained weights, or beside the folder `best/weights` of a run; None without one."""
    run = _run_of(adapter)
    path = adapter / "plan.yaml" if run is None else run / "best" / "plan.yaml"
    return read_plan(path) if path.is_file() else None


def training_facts(document: PlanDocument | None, spec: ModelSpec, folder: Path | None) -> TrainingFacts:
    """What a plan says of a full training run, and the result of its run, or of `train`, of how it computed.

    `folder` is a run or an adapter.
    """
    if document is None:
        return TrainingFacts()
    task, made = document.task, None if folder is None else _result(folder)
    environment = {} if made is None else made.environment
    parts = _accumulation_steps(task, environment.get("micro_batch_tokens", ""))
    return TrainingFacts(
        learning_rate=adapters.common_learning_rate(document.plan),
        micro_batch_size=None if task.batch_size is None else task.batch_size // parts,
        accumulation_steps=None if task.batch_size is None else parts,
        epochs=task.epochs,
        max_steps=task.max_steps,
        max_length=task.max_length,
        seed=document.seed,
        quantize=spec.quantize,
        bf16=environment["dtype"] == "bfloat16" if "dtype" in environment else None,
        checkpointing=environment["checkpointing"] == "on" if "checkpointing" in environment else None,
        text_form="" if made is None else made.setting.text_form,
    )


def _accumulation_steps(task: TaskSpec, tokens: str) -> int:
    """The fewest equal parts of a batch of which each, of the longest rows, has at most so many tokens."""
    if not (tokens.isdigit() and task.batch_size and task.max_length):
        return 1
    rows = max(1, int(tokens) // task.max_length)
    return next(
        n for n in range(1, task.batch_size + 1) if task.batch_size % n == 0 and task.batch_size // n <= rows
    )


def _result(folder: Path) -> SearchResult | TrainedPlan | None:
    run = _run_of(folder) or folder
    if (run / "run.yaml").is_file():
        with contextlib.suppress(SpecError):  # a run that has not finished, or that another version wrote
            return RunDir.open(run).load_result()
    with contextlib.suppress(OSError, ValueError):  # of JSON, or of the record
        return from_json(TrainedPlan, json.loads((folder / TRAINED).read_bytes()))
    return None


def _run_of(adapter: Path) -> Path | None:
    """The run of which a folder is `best/weights`; None for another folder."""
    whole = adapter.absolute()
    is_best = (whole.parent.name, whole.name) == ("best", "weights")
    run = whole.parent.parent
    return run if is_best and (run / "run.yaml").is_file() else None

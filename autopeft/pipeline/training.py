"""`train`: a plan in full, to adapter weights."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from autopeft.errors import RunDirError, SpecError, TrainingError
from autopeft.pipeline.forgetting import check_forgetting, forgetting_of, with_general_text
from autopeft.pipeline.prepare import check_plan, prepare
from autopeft.pipeline.searching import plan_document, training_json
from autopeft.records import (
    MAX_SEED,
    DataSpec,
    Fidelity,
    Forgetting,
    Measurement,
    ModelSpec,
    PlanDocument,
    RunSpec,
    SearchSpec,
    Status,
)
from autopeft.settings import resolve
from autopeft.store import read_plan, write_plan, write_text


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A plan trained in full: its measurement on the confirm split, and the folder of its adapter.

    `forgetting` is None where it was not asked for, or not measured.
    """

    measurement: Measurement
    folder: Path
    forgetting: Forgetting | None


def train_plan(
    path: Path,
    *,
    out: Path | None = None,
    seed: int | None = None,
    model_id: str | None = None,
    data_source: str | None = None,
    forgetting: str | None = None,
    overrides: Mapping[str, object] | None = None,
) -> Trained:
    """Train a plan at full length and save the adapter as `peft` does, head included.

    Args:
        path: plan.yaml or a run directory.
        out: Folder for the adapter; must be empty or absent. None is `reports/adapter-<plan>-<seed>`.
        seed: None takes the plan's own.
        model_id: Base model in place of the plan's.
        data_source: Dataset in place of the plan's, with the columns that the plan names.
        forgetting: General text on which the trained plan is held against the base model.
        overrides: What the user gave of `model.quantize`, `execution.device` and `execution.dtype`, None
            for nothing: the plan says how its base model is quantised, and nothing of the others.

    Raises:
        SpecError: Forgetting cannot be measured with the plan's task.
        TrainingError: The run failed or diverged; nothing is left in `out`.
    """
    document = read_plan(path)
    seed = document.seed if seed is None else seed
    if not 0 <= seed <= MAX_SEED:
        raise SpecError(f"The seed is {seed}; pass --seed from 0 to {MAX_SEED:,}.")
    target = out or Path("reports") / f"adapter-{document.plan.digest}-{seed}"
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise RunDirError(f"{target} is there already and not empty; pass another --out.")
    above = next(folder for folder in target.absolute().parents if folder.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise RunDirError(
            f"{target} cannot be written: {above} is no folder to write to; pass another --out."
        )
    fresh = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")  # nobody else's
    spec = _spec(document, model_id, data_source, {"forgetting.source": forgetting, **(overrides or {})})
    check_forgetting(spec)
    prepared = with_general_text(prepare(spec, keep_weights=lambda plan, seed: fresh))
    check_plan(document.plan, prepared.base, prepared.methods)
    fidelity = Fidelity(
        split="confirm",
        train_steps=prepared.full_steps,
        train_examples=prepared.full_steps * prepared.bench.batch_size,
        eval_examples=len(prepared.bench.splits["confirm"].labels),
        seed=seed,
    )
    try:
        measurement = prepared.bench.measure(document.plan, fidelity)
        if measurement.status is not Status.COMPLETE:
            raise TrainingError(
                f"Training plan {document.plan.digest} failed: {(measurement.error or '').rstrip('.')}."
            )
        forgot = forgetting_of(prepared, document.plan, fidelity)
        write_plan(fresh / "plan.yaml", replace(plan_document(prepared, document.plan), seed=seed))
        write_text(fresh / "training.json", training_json(measurement, forgot))
        if target.exists():
            target.rmdir()
        fresh.rename(target)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    return Trained(measurement=measurement, folder=target, forgetting=forgot)


def _spec(
    document: PlanDocument, model_id: str | None, data_source: str | None, overrides: Mapping[str, object]
) -> RunSpec:
    """The plan's own settings, with the splits that its seed gives, and what was given over them.

    Raises:
        SpecError: No learning rate, or a word that is not allowed.
    """
    if document.plan.learning_rate <= 0:
        raise SpecError(f"The plan's learning rate is {document.plan.learning_rate}; it must be above 0.")
    own = document.model
    chosen = own if model_id is None else ModelSpec(id=model_id, quantize=own.quantize)
    flags = {"model.quantize": chosen.quantize, **{k: v for k, v in overrides.items() if v is not None}}
    asked, _ = resolve(config=None, env={}, flags=flags, assignments=())
    return RunSpec(
        model=chosen.model_copy(update={"quantize": asked.model.quantize}),
        execution=asked.execution,
        data=document.data if data_source is None else _with_source(document.data, data_source),
        task=document.task,
        search=SearchSpec(seed=document.seed),
        forgetting=asked.forgetting,
    )


def _with_source(own: DataSpec, source: str) -> DataSpec:
    """The plan's columns and bounds on another source; how the plan's own is fetched is left out."""
    return own.model_copy(update={"source": source, "config_name": None, "streaming": False})

"""The folder `best/` of a run: the plan, the configs that `peft` reads, and trained weights."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

from autopeft import report, train
from autopeft.adapters import compile_plan
from autopeft.exports import write_adapter
from autopeft.extension import ExportSource
from autopeft.pipeline.hub_folder import write_card, write_loading_files
from autopeft.pipeline.prepare import Prepared
from autopeft.pipeline.resuming import copy_weights
from autopeft.records import (
    IN_MEMORY,
    Forgetting,
    Measurement,
    Plan,
    PlanDocument,
    SearchResult,
    Status,
    resume_command,
    to_json,
)
from autopeft.store import RunDir, damaged, write_plan, write_text


def write_best(run: RunDir, prepared: Prepared, result: SearchResult) -> None:
    """Write `best/`, with the weights of the first complete confirmation seed; replaces an older `best/`.

    Where the objective is the Pareto front, `front/` is replaced too, by every plan of the front.
    """
    fresh = run.half_best
    shutil.rmtree(fresh, ignore_errors=True)
    try:
        _fill(fresh, run, prepared, result)
    except BaseException:  # a signal, too
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    shutil.rmtree(run.best, ignore_errors=True)
    fresh.rename(run.best)
    if prepared.spec.search.objective == "pareto":
        _write_front(run.path / "front", prepared, result)


def _write_front(folder: Path, prepared: Prepared, result: SearchResult) -> None:
    """Write the plans of the front, then remove those that an earlier, shorter search had there."""
    plans = {f"{measurement.plan.trainable_params}.yaml": measurement.plan for measurement in result.front}
    for name, plan in plans.items():
        write_plan(folder / name, plan_document(prepared, plan))
    for path in folder.glob("*.yaml"):
        if path.name not in plans:
            path.unlink()


def _fill(fresh: Path, run: RunDir, prepared: Prepared, result: SearchResult) -> None:
    """Write the plan, its configs, and the weights of its first complete confirmation seed."""
    write_plan(fresh / "plan.yaml", plan_document(prepared, result.best))
    source = ExportSource(
        configs=compile_plan(result.best, prepared.methods).configs,
        base_model=result.setting.base_model_source.replace(IN_MEMORY, ""),
        task_type=prepared.task.peft_task_type,
        head=prepared.base.head_names,
        base=prepared.base.module,
    )
    write_adapter(source, fresh / "adapters")
    confirmed = [
        m
        for m in result.measurements
        if m.plan == result.best and m.fidelity.split == "confirm" and m.status is Status.COMPLETE
    ]
    if confirmed:
        copy_weights(run, confirmed[0], fresh / "weights")
        write_text(fresh / "weights" / "training.json", training_json(confirmed[0]))
        write_loading_files(fresh / "weights", prepared)
        write_card(fresh / "weights", result, seed=confirmed[0].fidelity.seed)


def plan_document(prepared: Prepared, plan: Plan) -> PlanDocument:
    """A plan with everything that is needed to train it again."""
    spec = prepared.spec
    return PlanDocument(
        plan=plan,
        model=spec.model,
        data=spec.data,
        task=spec.task,
        base_params=prepared.base.base_params,
        head_params=prepared.base.head_params,
        schedule=train.SCHEDULE,
        seed=spec.search.seed,
    )


def training_json(measurement: Measurement, forgetting: Forgetting | None = None) -> str:
    """The content of `training.json`, which lies beside trained weights: their scores and their fidelity."""
    record = to_json(replace(measurement, example_scores=()))
    keys = ("status", "metric", "loss", "train_seconds", "eval_seconds", "peak_bytes")
    content = {
        "plan_id": measurement.plan.digest,
        **record["fidelity"],
        **{key: record[key] for key in keys},
    }
    if forgetting is not None:
        content["forgetting"] = report.forgetting_json(forgetting)
    return json.dumps(content, indent=2) + "\n"


def confirmed_seed(run: RunDir) -> int:
    """The seed of the weights in `best/weights`.

    Raises:
        RunDirError: `training.json`, which holds the seed, is missing or damaged.
    """
    path = run.best / "weights" / "training.json"
    try:
        seed = json.loads(path.read_bytes())["seed"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        seed = None
    if type(seed) is not int:
        raise damaged(path, remedy=f"write it again with: {resume_command(run.read_spec(), run.path)}")
    return seed

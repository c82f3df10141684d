"""Folders of finished adapters such as `best/`: plan, configs, weights, tokenizer, labels, model card."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from autopeft import train
from autopeft.adapters import compile_plan
from autopeft.errors import RunDirError
from autopeft.exports import write_adapter, write_loading_files
from autopeft.model import BaseModel
from autopeft.plugins import Checkpoint, ExportSource
from autopeft.run.base_facts import facts_of
from autopeft.run.prepare import Prepared
from autopeft.run.reporting import hub_base, write_card
from autopeft.store import (
    TRAINING,
    RunDir,
    damaged,
    read_object,
    replace_folder,
    write_plan,
    write_text,
)
from autopeft.types import (
    IN_MEMORY,
    DataSpec,
    Measurement,
    Plan,
    PlanDocument,
    RunSpec,
    SearchResult,
    resume_command,
    to_json,
)


def write_best(run: RunDir, prepared: Prepared, result: SearchResult) -> None:
    """Write `best/`, with the weights of the first full run of the best plan; replace an older `best/`."""
    fresh = run.half_best
    shutil.rmtree(fresh, ignore_errors=True)
    try:
        _fill(fresh, run, prepared, result)
    except BaseException:  # a signal, too
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    replace_folder(fresh, run.best)


def write_plans(run: RunDir, prepared: Prepared, result: SearchResult) -> None:
    """Write each plan trained in full to `plans/`, named by role (`challenger.yaml`, `1-of-5.yaml`)."""
    plans = {"best": result.best, "baseline": result.baseline}
    plans |= {"challenger": result.challenger} if result.challenger is not None else {}
    heads = [each.plan for each in result.full_runs if not each.plan.adapters]
    plans |= {"head": heads[0]} if heads else {}
    plans |= {f"1-of-{round(1 / size.share)}": size.plan for size in result.sizes}
    for name, plan in plans.items():
        if plan.learning_rate > 0:  # the untrained base model is not a plan to train
            write_plan(run.path / "plans" / f"{name}.yaml", plan_document(prepared, plan))


def _fill(fresh: Path, run: RunDir, prepared: Prepared, result: SearchResult) -> None:
    """Write the plan, its configs, and the weights of its first full run with the files that load them."""
    write_plan(fresh / "plan.yaml", plan_document(prepared, result.best))
    source = ExportSource(
        configs=compile_plan(result.best, prepared.methods).configs,
        base_model=hub_base(result.setting) or result.setting.base_model_source.replace(IN_MEMORY, ""),
        checkpoint=Checkpoint(revision=prepared.spec.model.revision),
        task_type=prepared.task.peft_task_type,
        head=prepared.base.head_names,
        base=prepared.base.module,
    )
    write_adapter(source, fresh / "adapters")
    full_run = next(m for m in result.measurements if m.plan == result.best and m.fidelity.split == "confirm")
    seed = full_run.fidelity.seed
    judged = fresh / ("weights" if result.refit is None else "judged")
    shutil.copytree(run.weights(result.best, seed), judged)
    texts = judged / train.WRITTEN_TEXTS
    if texts.is_file():  # it quotes the data, and the folder of the weights may be passed on
        texts.rename(fresh / train.WRITTEN_TEXTS)
    _complete(judged, prepared, replace(result, refit=None), full_run)
    if result.refit is not None:
        names = shutil.ignore_patterns(train.WRITTEN_TEXTS)
        shutil.copytree(run.refit(result.best, seed), fresh / "weights", ignore=names)
        _complete(fresh / "weights", prepared, result, result.refit.measurement)


def _complete(folder: Path, prepared: Prepared, result: SearchResult, measurement: Measurement) -> None:
    """Write the files next to an adapter of the best plan that load it and describe it."""
    write_text(folder / TRAINING, training_json(measurement, facts_of(prepared)))
    # This folder may be passed on alone. Its plan says how to train it again, without the path of the data.
    document = replace(plan_document(prepared, result.best), data=DataSpec())
    write_plan(folder / "plan.yaml", document)
    write_loading_files(folder, prepared.spec.model, prepared.base, prepared.data)
    write_card(folder, result, seed=measurement.fidelity.seed, repo=f"best/{folder.name}")


def plan_document(prepared: Prepared, plan: Plan) -> PlanDocument:
    """Return a plan with everything that is needed to train it again."""
    rate = prepared.bench.head_rates.output * plan.head_factor if prepared.base.head_params else None
    return replace(document_without_head_rate(prepared.spec, prepared.base, plan), head_learning_rate=rate)


def document_without_head_rate(spec: RunSpec, base: BaseModel, plan: Plan) -> PlanDocument:
    """Return a plan with what is needed to train it again, except for the learning rate of a task head."""
    return PlanDocument(
        plan=plan,
        model=spec.model,
        data=spec.data,
        task=spec.task,
        base_params=base.base_params,
        head_params=base.head_params,
        schedule=train.SCHEDULE,
        seed=spec.search.seed,
    )


def training_json(measurement: Measurement, facts: Mapping[str, Any]) -> str:
    """Return the text of `training.json`, which is next to trained weights; `facts` come from `facts_of`."""
    record = to_json(replace(measurement, example_scores=()))
    keys = ("status", "metric", "loss", "train_seconds", "eval_seconds", "peak_bytes")
    content = {
        "plan_id": measurement.plan.digest,
        **record["fidelity"],
        **{key: record[key] for key in keys},
        **facts,
    }
    return json.dumps(content, indent=2) + "\n"


def finished_weights(run: RunDir) -> Path:
    """Return the folder of the best plan's weights; raises RunDirError if it does not exist."""
    weights = run.best / "weights"
    if not weights.is_dir():
        raise RunDirError(
            f"{run.path} has no best/weights; write them with: {resume_command(run.read_spec(), run.path)}"
        )
    return weights


def finished_seed(run: RunDir) -> int:
    """Read the seed of the weights in `best/weights`; raises RunDirError if `training.json` is damaged."""
    path = run.best / "weights" / TRAINING
    seed = read_object(path).get("seed")
    if not isinstance(seed, int):
        raise damaged(path, remedy=f"write it again with: {resume_command(run.read_spec(), run.path)}")
    return seed

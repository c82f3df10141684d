"""Folders of trained weights: their notes on plan, base model and rows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from autopeft import model, train
from autopeft.errors import ModelError, RunDirError
from autopeft.model import BaseModel
from autopeft.model.attaching import modules_kept_whole
from autopeft.model.weight_comparison import weight_digests
from autopeft.setup.build import Prepared
from autopeft.store import TRAINING, RunDir, read_object
from autopeft.types import Measurement, Plan, PlanDocument, RunSpec, resume_command, to_json


def base_facts(prepared: Prepared) -> dict[str, Any]:
    """Collect the digests of a run's base model and the fingerprint of its rows."""
    return {"base": prepared.base.weight_digests, "data_fingerprint": prepared.data.fingerprint}


def has_other_base(folder: Path, module: nn.Module) -> bool:
    """Whether the weights in a folder were trained on another base model than `module`.

    False if that is unknown: nothing is noted, or only one of the two models was quantized.
    """
    noted = read_object(folder / TRAINING).get("base", {})
    trained_whole = (*model.head_names(module), *modules_kept_whole(folder))
    current = weight_digests(module, exclude=trained_whole)
    return any(noted[name] != current[name] for name in noted.keys() & current)


def require_same_base(folder: Path, module: nn.Module) -> None:
    """Raise a ModelError if the base model is not that of the weights in a folder."""
    if has_other_base(folder, module):
        raise ModelError(
            f"{folder} was trained on a base model with other weights; pass that one with --model."
        )


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
    """Return the text of `training.json`, which is next to trained weights; `facts` are `base_facts`."""
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

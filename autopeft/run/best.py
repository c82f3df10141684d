"""Folders of finished adapters such as `best/`: plan, configs, weights, tokenizer, labels, model card."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from autopeft import model, train
from autopeft.adapters import compile_plan
from autopeft.errors import ModelError, RunDirError, TrainingError
from autopeft.exports import write_adapter, write_loading_files
from autopeft.extension import Checkpoint, ExportSource
from autopeft.model.attaching import modules_kept_whole
from autopeft.model.weight_comparison import sample_digest
from autopeft.records import (
    IN_MEMORY,
    DataSpec,
    Measurement,
    Plan,
    PlanDocument,
    SearchResult,
    resume_command,
    to_json,
)
from autopeft.run.prepare import Prepared
from autopeft.run.reporting import hub_base, write_card
from autopeft.store import (
    RunDir,
    damaged,
    replace_folder,
    seal_of,
    write_plan,
    write_text,
)

_BODY = "body_sha256"
BASE_SAMPLE = "base_sample"


def write_best(run: RunDir, prepared: Prepared, result: SearchResult) -> None:
    """Write `best/`, with the weights of the first full run of the best plan; replaces an older `best/`."""
    fresh = run.half_best
    shutil.rmtree(fresh, ignore_errors=True)
    try:
        _fill(fresh, run, prepared, result)
    except BaseException:  # a signal, too
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    replace_folder(fresh, run.best)


def write_plans(run: RunDir, prepared: Prepared, result: SearchResult) -> None:
    """Write the plans that were trained in full by their part: `plans/rival.yaml`, `plans/1-of-5.yaml`."""
    plans = {"best": result.best, "baseline": result.baseline}
    plans |= {"rival": result.rival} if result.rival is not None else {}
    heads = [each.plan for each in result.full_runs if not each.plan.adapters]
    plans |= {"head": heads[0]} if heads else {}
    plans |= {f"1-of-{round(1 / size.share)}": size.plan for size in result.sizes}
    for name, plan in plans.items():
        if plan.learning_rate > 0:  # the base model untrained is no plan to train
            write_plan(run.path / "plans" / f"{name}.yaml", plan_document(prepared, plan))


def _fill(fresh: Path, run: RunDir, prepared: Prepared, result: SearchResult) -> None:
    """Write the plan, its configs, and the weights of its first full run."""
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
    seals = {(m.plan, m.fidelity): seal for m, seal in run.measurements.entries()}
    seal = seals.get((result.best, full_run.fidelity))
    shutil.copytree(run.weights(result.best, seed), fresh / "weights", symlinks=True)
    if seal is None or seal_of(fresh / "weights") != seal:
        raise TrainingError(
            f"The kept weights of plan {result.best.digest}, seed {seed}, were damaged during the run; "
            "--resume trains them again."
        )
    body = prepared.base.body_sha256() if prepared.base.is_in_memory else None
    facts = training_json(full_run, body_sha256=body, base_sample=base_sample(prepared))
    write_text(fresh / "weights" / "training.json", facts)
    # The folder may be passed on alone, so that it says how to train again; it names no path of the data.
    document = replace(plan_document(prepared, result.best), data=DataSpec())
    write_plan(fresh / "weights" / "plan.yaml", document)
    write_loading_files(fresh / "weights", prepared.spec.model, prepared.base, prepared.data)
    write_card(fresh / "weights", result, seed=seed)


def plan_document(prepared: Prepared, plan: Plan) -> PlanDocument:
    """Put beside a plan everything that is needed to train it again."""
    spec = prepared.spec
    return PlanDocument(
        plan=plan,
        model=spec.model,
        data=spec.data,
        task=spec.task,
        base_params=prepared.base.base_params,
        head_params=prepared.base.head_params,
        schedule=train.SCHEDULE,
        head_learning_rate=prepared.bench.head_rates.output if prepared.base.head_params else None,
        seed=spec.search.seed,
    )


def training_json(
    measurement: Measurement, *, base_sample: str | None, body_sha256: str | None = None
) -> str:
    """Compose `training.json`, which lies beside trained weights: their scores and their fidelity.

    Args:
        measurement: The run that made the weights.
        base_sample: What `base_sample` gives.
        body_sha256: Digest of a base model in memory without its head, since no name loads it again.
    """
    record = to_json(replace(measurement, example_scores=()))
    keys = ("status", "metric", "loss", "train_seconds", "eval_seconds", "peak_bytes")
    content = {
        "plan_id": measurement.plan.digest,
        **record["fidelity"],
        **{key: record[key] for key in keys},
    }
    if base_sample is not None:
        content[BASE_SAMPLE] = base_sample
    if body_sha256 is not None:
        content[_BODY] = body_sha256
    return json.dumps(content, indent=2) + "\n"


def finished_weights(run: RunDir) -> Path:
    """The folder of the weights of the best plan; RunDirError where they were deleted."""
    weights = run.best / "weights"
    if not weights.is_dir():
        raise RunDirError(
            f"{run.path} has no best/weights; write them again with: "
            f"{resume_command(run.read_spec(), run.path)}"
        )
    return weights


def finished_seed(run: RunDir) -> int:
    """The seed of the weights in `best/weights`.

    Raises:
        RunDirError: `training.json`, which holds the seed, is missing or damaged.
    """
    path = run.best / "weights" / "training.json"
    seed = trained_facts(path).get("seed")
    if type(seed) is not int:
        raise damaged(path, remedy=f"write it again with: {resume_command(run.read_spec(), run.path)}")
    return seed


def require_body(weights: Path, body_sha256: Callable[[], str]) -> None:
    """Raise a ModelError if weights were trained on a model in memory, and this base model is another one.

    Args:
        weights: A folder of trained weights.
        body_sha256: Gives the digest of this base model, without its head.
    """
    expected = trained_facts(weights / "training.json").get(_BODY)
    if expected is not None and expected != (digest := body_sha256()):
        raise ModelError(
            "The base model has other weights than the one in memory that was searched (SHA-256 "
            f"{digest[:12]} instead of {str(expected)[:12]}); pass that model, or a folder that its "
            "save_pretrained wrote."
        )


def base_sample(prepared: Prepared) -> str | None:
    """Digest a sample of the base model's weights without its head; None if it is quantised."""
    return sample_digest(prepared.base.module, exclude=prepared.base.head_names)


def has_other_weights(weights: Path, module: nn.Module) -> bool:
    """Whether a base model differs from the one of a folder; False for folders of earlier versions."""
    expected = trained_facts(weights / "training.json").get(BASE_SAMPLE)
    if not isinstance(expected, str):
        return False
    apart = (*model.head_names(module), *modules_kept_whole(weights))
    digest = sample_digest(module, exclude=apart)
    return digest is not None and digest != expected


def require_same_base(weights: Path, module: nn.Module) -> None:
    """Raise a ModelError if the base model is not the one that a folder was trained on."""
    if has_other_weights(weights, module):
        raise ModelError(
            f"The base model has other weights than the one that {weights} was trained on; pass that one, or "
            "put it back in its place."
        )


def trained_facts(path: Path) -> dict[str, Any]:
    """Read a `training.json`; empty if it is missing or damaged."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}

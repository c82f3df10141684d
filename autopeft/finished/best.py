"""`best/` and `plans/` of a finished search: plans, configs, weights, tokenizer, labels, model card."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from autopeft import train
from autopeft.adapters import compile_plan
from autopeft.exports import write_adapter, write_loading_files
from autopeft.finished.refit import REFIT
from autopeft.finished.training_notes import base_facts, plan_document, training_json
from autopeft.plugins import Checkpoint, ExportSource
from autopeft.report.write_card import hub_base, write_card
from autopeft.setup.build import Prepared
from autopeft.store import TRAINING, RunDir, replaced_folder, write_plan, write_text
from autopeft.types import IN_MEMORY, DataSpec, Measurement, SearchResult


def write_best(run: RunDir, prepared: Prepared, result: SearchResult) -> None:
    """Write `best/`: the plan, its configs, and the weights of its first full run; replace an older one."""
    with replaced_folder(run.best) as fresh:
        write_plan(fresh / "plan.yaml", plan_document(prepared, result.best))
        source = ExportSource(
            configs=compile_plan(result.best, prepared.bench.methods).configs,
            base_model=hub_base(result.setting) or result.setting.base_model_source.replace(IN_MEMORY, ""),
            checkpoint=Checkpoint(revision=prepared.spec.model.revision),
            task_type=prepared.task.peft_task_type,
            head=prepared.base.head_names,
            base=prepared.base.module,
        )
        write_adapter(source, fresh / "adapters")
        full_run = next(
            m for m in result.measurements if m.plan == result.best and m.fidelity.split == "confirm"
        )
        seed = full_run.fidelity.seed
        judged = fresh / ("weights" if result.refit is None else "judged")
        shutil.copytree(run.weights(result.best, seed), judged)
        texts = judged / train.WRITTEN_TEXTS
        if texts.is_file():  # it quotes the data, and the folder of the weights may be passed on
            texts.rename(fresh / train.WRITTEN_TEXTS)
        _complete(judged, prepared, replace(result, refit=None), full_run)
        if result.refit is not None:
            names = shutil.ignore_patterns(train.WRITTEN_TEXTS, REFIT)
            shutil.copytree(run.refit(result.best, seed), fresh / "weights", ignore=names)
            _complete(fresh / "weights", prepared, result, result.refit.measurement)


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


def _complete(folder: Path, prepared: Prepared, result: SearchResult, measurement: Measurement) -> None:
    """Write the files next to an adapter of the best plan that load it and describe it."""
    write_text(folder / TRAINING, training_json(measurement, base_facts(prepared)))
    # This folder may be passed on alone. Its plan says how to train it again, without the path of the data.
    document = replace(plan_document(prepared, result.best), data=DataSpec())
    write_plan(folder / "plan.yaml", document)
    write_loading_files(folder, prepared.spec.model, prepared.base, prepared.data)
    write_card(folder, result, repo=f"best/{folder.name}")

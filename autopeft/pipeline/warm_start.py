"""`--warm-start`: map a plan for any model, dataset or budget onto the base model of a run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from autopeft import budget, model
from autopeft.errors import ModelError
from autopeft.extension import discover, rate_factor
from autopeft.pipeline.prepare import Prepared
from autopeft.records import Plan, PlanDocument, RunSpec, Site
from autopeft.space import AllocationContext, Transferred, transfer
from autopeft.store import RunDir, read_plan


def read_warm_start(path: Path, prepared: Prepared, context: AllocationContext) -> Transferred:
    """The plan of a file or of an earlier run, mapped onto this run's base model and budget.

    Of the plan's own base model only `config.json` is needed, and not even that where all of the plan's
    sites exist in this run's base model.

    Args:
        path: plan.yaml, or a run directory, from which the plan's budget is read too.
        prepared: This run.
        context: What an allocation needs: sites, methods and budget.

    Raises:
        ModelError: The config of the plan's model cannot be read, and the plan does not fit unmapped.
        SpecError: The file holds no readable plan, or no adapter of the plan can be mapped.
    """
    document = read_plan(path)
    sites, hidden_size = _source(document, prepared)
    return transfer(
        _at_same_position(document.plan, prepared, hidden_size),
        sites,
        context,
        source_budget=_budget(path, document),
        max_rank=prepared.spec.limits.max_rank,
    )


def _source(document: PlanDocument, prepared: Prepared) -> tuple[tuple[Site, ...], int]:
    """The sites and the hidden size of the model that a plan was made for."""
    here = prepared.base
    if document.model == prepared.spec.model:
        return here.sites, here.hidden_size
    try:
        with model.quiet_libraries():
            base = model.load_skeleton(document.model, auto_class=prepared.task.auto_class)
        return base.sites, base.hidden_size
    except ModelError:
        if {adapter.site for adapter in document.plan.adapters} <= {site.name for site in here.sites}:
            return here.sites, here.hidden_size
        raise


def _at_same_position(plan: Plan, prepared: Prepared, hidden_size: int) -> Plan:
    """The plan with its learning rate as far into the method's range here as it was in the plan's model."""
    lead = plan.lead_method
    if lead is None:
        return plan
    there = discover("autopeft.methods")[lead].at_width(hidden_size)
    return replace(plan, learning_rate=plan.learning_rate * rate_factor(prepared.methods[lead], there))


def _budget(path: Path, document: PlanDocument) -> int | None:
    """Trainable parameters that the run of a plan allowed its adapters; None where there is only a plan."""
    if not (path / "run.yaml").is_file():
        return None
    spec: RunSpec = RunDir.open(path).read_spec()
    parsed = budget.parse(spec.budget.requested, base_params=document.base_params)
    return parsed.max_trainable_params - (document.head_params if spec.budget.count_head else 0)

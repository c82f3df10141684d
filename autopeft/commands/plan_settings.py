"""The settings that a plan remembers, with those that the user replaces."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from autopeft.errors import SpecError
from autopeft.records import DataSpec, ModelSpec, PlanDocument, RunSpec, SearchSpec
from autopeft.store import RunDir, resolve_settings, whole_path
from autopeft.train import SCHEDULE

log = logging.getLogger(__name__)


def require_data(path: Path, document: PlanDocument, data_source: str | None) -> None:
    """Raise SpecError for a plan without a dataset, as of a push, that is neither the demo's nor its run's.

    It would be trained on the built-in reviews otherwise, which are not what the plan was made for.
    """
    if data_source or document.data.source or document.model.id is None:
        return
    folders = (path, *path.absolute().parents)
    run = next((folder for folder in folders if (folder / "run.yaml").is_file()), None)
    if run is None or RunDir.open(run).read_spec().data.source is not None:
        raise SpecError(f"{path} names no dataset to train on; pass one with --data.")


def note_schedule(path: Path, document: PlanDocument) -> None:
    """Warn of another schedule in a plan than the one of all trainings, which is followed."""
    if document.schedule != SCHEDULE:
        log.warning("The training does not follow the schedule in %s, but its own: %s.", path, SCHEDULE)


def spec_of_plan(
    document: PlanDocument, model_id: str | None, data_source: str | None, overrides: Mapping[str, object]
) -> RunSpec:
    """The settings that a plan remembers, with the user's overrides.

    The data is split by the plan's seed, so that the confirm split is that of its search.

    Raises:
        SpecError: The plan has no learning rate, or an override has a value that is not allowed.
    """
    if document.plan.learning_rate <= 0:
        raise SpecError(f"The plan's learning rate is {document.plan.learning_rate}; it must be above 0.")
    named = document.model.id if model_id is None else model_id
    base = document.model if model_id is None else ModelSpec(quantize=document.model.quantize)
    base = base.model_copy(update={"id": None if named is None else whole_path(named)})
    flags = {"model.quantize": base.quantize, **{k: v for k, v in overrides.items() if v is not None}}
    checked, _ = resolve_settings(config=None, env={}, flags=flags, assignments=())
    return RunSpec(
        model=base.model_copy(update={"quantize": checked.model.quantize}),
        execution=checked.execution,
        data=document.data if data_source is None else with_source(document.data, data_source),
        task=document.task,
        search=SearchSpec(seed=document.seed),
    )


def with_source(data: DataSpec, source: str) -> DataSpec:
    """The same columns and limits for another source; settings of the hub dataset are dropped."""
    return data.model_copy(update={"source": whole_path(source), "config_name": None, "streaming": False})

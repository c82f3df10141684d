"""Experiment trackers of `accelerate`: when a search ends, each of its plans becomes an experiment there."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import re
import statistics
import sys
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

from autopeft.errors import SpecError, UnknownNameError, reason_of
from autopeft.store import RunDir, write_text
from autopeft.types import Measurement, Plan, RunSpec, SearchResult, to_json

_PROJECT = "autopeft"  # the trackers' project for all searches, if the user names none

log = logging.getLogger(__name__)


def check_trackers(spec: RunSpec) -> None:
    """Raise UnknownNameError for an unknown tracker, SpecError for a missing client."""
    if not spec.output.report_to:
        return
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

    for name in spec.output.report_to:
        if name not in LOGGER_TYPE_TO_CLASS:
            raise UnknownNameError("tracker", name, LOGGER_TYPE_TO_CLASS)
        if name not in map(str, get_available_trackers()):
            raise SpecError(
                f"--report-to {name} needs the package {name}; install it with: pip install {name}."
            )


def log_plans(run: RunDir, result: SearchResult) -> None:
    """Log each plan to each tracker that does not have it; a tracker that fails is skipped with a warning.

    What a tracker's client prints goes to stderr.
    """
    for name in result.spec.output.report_to:
        try:
            with contextlib.redirect_stdout(sys.stderr):
                _log_new_plans(name, run, result)
        except Exception as error:  # a client may raise anything, and the result is finished
            reason = f"{type(error).__name__}: {reason_of(error)}"
            log.warning("The tracker %s failed (%s); --resume logs the missing plans.", name, reason)


def _log_new_plans(name: str, run: RunDir, result: SearchResult) -> None:
    """Log plans to one tracker, an experiment each, and list the logged ones in `tracked-<name>.json`."""
    from accelerate import PartialState
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    PartialState()  # needed by the trackers' own logging
    path = run.state / f"tracked-{name}.json"
    logged = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    arms = {proposal.plan: str(proposal.arm) for proposal in reversed(result.proposals)}
    plans: dict[Plan, list[Measurement]] = defaultdict(list)
    for measurement in result.measurements:
        plans[measurement.plan].append(measurement)
    for plan, measurements in plans.items():
        if plan.digest in logged:
            continue
        arm = arms.get(replace(plan, head_factor=1.0), "size")  # only plans of --sizes have no proposal
        label = re.sub(r"[^\w.]+", "-", f"{arm} {plan.digest}")  # trackers make folders and URLs of it
        target, options = _tracker_arguments(name, label, run.path)
        tracker = LOGGER_TYPE_TO_CLASS[name](target, **options)
        tracker.start()
        tracker.store_init_configuration(_description(plan, arm, result))
        # Steps of training -> loss and metric on each split, of all seeds; their mean is logged.
        values_by_step: dict[int, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        for measurement in measurements:
            fidelity = measurement.fidelity
            for value_name in ("loss", "metric"):
                value = getattr(measurement, value_name)
                if value is not None and math.isfinite(value):
                    values_by_step[fidelity.train_steps][f"{fidelity.split}/{value_name}"].append(value)
            curve = run.curve(plan, fidelity)
            for line in curve.read_text(encoding="utf-8").splitlines() if curve.exists() else ():
                point = json.loads(line)
                values = values_by_step[point.pop("step")]
                for value_name, value in point.items():
                    if value is not None:
                        values[f"{fidelity.split}/training_{value_name}"].append(value)
        for step, values in sorted(values_by_step.items()):
            tracker.log({key: statistics.fmean(each) for key, each in values.items()}, step=step)
        tracker.finish()
        logged.append(plan.digest)
        write_text(path, json.dumps(logged))


def _tracker_arguments(name: str, label: str, folder: Path) -> tuple[str, dict[str, Any]]:
    """Return the first argument and the options of a tracker's class.

    The experiment is called `label`; all plans of the search in `folder` are one group.
    """
    project = os.environ.get(f"{name.upper()}_PROJECT", _PROJECT)
    arguments: dict[str, tuple[str, dict[str, Any]]] = {
        "aim": (label, {"logging_dir": str(folder), "experiment": project}),
        "clearml": (project, {"task_name": f"{folder.name}/{label}", "reuse_last_task_id": False}),
        "dvclive": (label, {"dir": str(folder / "dvclive" / label)}),
        "mlflow": (project, {"run_name": f"{folder.name}/{label}"}),
        "swanlab": (project, {"experiment_name": f"{folder.name}/{label}"}),
        "tensorboard": (label, {"logging_dir": str(folder / "tensorboard")}),
        "trackio": (project, {"name": f"{folder.name}/{label}", "group": folder.name, "embed": False}),
        "wandb": (project, {"name": label, "group": folder.name, "reinit": "finish_previous"}),
    }
    return arguments.get(name, (project, {}))


def _description(plan: Plan, arm: str, result: SearchResult) -> dict[str, bool | int | float | str]:
    """Describe a plan: its size and rate, its roles in the search, and the settings of the search."""
    roles = ("best", "baseline", "challenger")
    settings = to_json(result.spec).items()
    flat = {f"{topic}.{name}": value for topic, values in settings for name, value in values.items()}
    return {
        "plan_id": plan.digest,
        "arm": arm,
        "roles": ", ".join(role for role in roles if getattr(result, role) == plan),
        "trainable_params": plan.trainable_params,
        "learning_rate": plan.learning_rate,
        **{name: value for name, value in flat.items() if isinstance(value, bool | int | float | str)},
    }

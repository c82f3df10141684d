"""Experiment trackers of `accelerate`: each plan of a search becomes an experiment there, and each training.

A search logs its plans when it ends, a training while it runs.
"""

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
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from autopeft.errors import SpecError, UnknownNameError, reason_of
from autopeft.report.charts import read_points
from autopeft.store import RunDir, write_text
from autopeft.types import Measurement, Plan, RunSpec, SearchResult, proposal_of, to_json

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
        with _only_warning(name, "--resume logs the missing plans"):
            _log_new_plans(name, run, result)


@contextlib.contextmanager
def logged_curve(spec: RunSpec, curve: Path, target: Path) -> Iterator[Callable[[], None]]:
    """Yield a function that logs the new points of a training's curve; it is called once more at the end.

    The experiment has the name of the folder `target`, next to which trackers that write files write them. A
    tracker that fails gets no more points.
    """
    trackers: dict[str, Any] = {}
    for name in spec.output.report_to:
        with _only_warning(name, "it is left out"):
            trackers[name] = _started(name, target.name, target.absolute().parent)
    n_logged = 0

    def log_new_points() -> None:
        nonlocal n_logged
        points = read_points(curve)[n_logged:] if trackers else []
        n_logged += len(points)
        for name in [*trackers]:
            tracker = trackers.pop(name)
            with _only_warning(name, "it is left out"):
                for point in points:
                    values = {f"training_{key}": value for key, value in point.items() if value is not None}
                    tracker.log(values, step=values.pop("training_step"))
                trackers[name] = tracker

    try:
        yield log_new_points
    finally:
        log_new_points()
        for name, tracker in trackers.items():
            with _only_warning(name, "its last points may be missing"):
                tracker.finish()


@contextlib.contextmanager
def _only_warning(name: str, consequence: str) -> Iterator[None]:
    """Log what a tracker's client raises as a warning; what it prints goes to stderr."""
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    except Exception as error:  # a client may raise anything, and the training matters more
        log.warning(
            "The tracker %s failed (%s: %s); %s.", name, type(error).__name__, reason_of(error), consequence
        )


def _started(name: str, label: str, folder: Path) -> Any:
    """Start an experiment `label` of the search or training in `folder`."""
    from accelerate import PartialState
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    PartialState()  # needed by the trackers' own logging
    target, options = _tracker_arguments(name, label, folder)
    tracker = LOGGER_TYPE_TO_CLASS[name](target, **options)
    tracker.start()
    return tracker


def _log_new_plans(name: str, run: RunDir, result: SearchResult) -> None:
    """Log plans to one tracker, an experiment each, and list the logged ones in `tracked-<name>.json`."""
    path = run.state / f"tracked-{name}.json"
    logged = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    plans: dict[Plan, list[Measurement]] = defaultdict(list)
    for measurement in result.measurements:
        plans[measurement.plan].append(measurement)
    for plan, measurements in plans.items():
        if plan.digest in logged:
            continue
        proposal = proposal_of(plan, result.proposals)
        arm = "size" if proposal is None else str(proposal.arm)  # only plans of --sizes have no proposal
        label = re.sub(r"[^\w.]+", "-", f"{arm} {plan.digest}")  # trackers make folders and URLs of it
        tracker = _started(name, label, run.path)
        tracker.store_init_configuration(_description(plan, arm, result))
        for step, values in _values_by_step(measurements, run):
            tracker.log(values, step=step)
        tracker.finish()
        logged.append(plan.digest)
        write_text(path, json.dumps(logged))


def _values_by_step(measurements: Iterable[Measurement], run: RunDir) -> list[tuple[int, dict[str, float]]]:
    """Return the steps of training, and the means over seeds of scores on each split and of the curve."""
    values: dict[int, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for measurement in measurements:
        fidelity = measurement.fidelity
        for name, value in (("loss", measurement.loss), ("metric", measurement.metric)):
            if value is not None and math.isfinite(value):
                values[fidelity.train_steps][f"{fidelity.split}/{name}"].append(value)
        for point in read_points(run.curve(measurement.plan, fidelity)):
            at_step = values[point.pop("step")]
            for name, value in point.items():
                if value is not None:
                    at_step[f"{fidelity.split}/training_{name}"].append(value)
    return [
        (step, {key: statistics.fmean(each) for key, each in by_key.items()})
        for step, by_key in sorted(values.items())
    ]


def _tracker_arguments(name: str, label: str, folder: Path) -> tuple[str, dict[str, Any]]:
    """Return the first argument and the options of a tracker's class.

    The experiment is called `label`; all plans of the search in `folder` are one group.
    """
    project = os.environ.get(f"{name.upper()}_PROJECT", _PROJECT)
    experiment = f"{folder.name}/{label}"
    arguments: dict[str, tuple[str, dict[str, Any]]] = {
        "aim": (label, {"logging_dir": str(folder), "experiment": project}),
        "clearml": (project, {"task_name": experiment, "reuse_last_task_id": False}),
        "dvclive": (label, {"dir": str(folder / "dvclive" / label)}),
        "mlflow": (project, {"run_name": experiment}),
        "swanlab": (project, {"experiment_name": experiment}),
        "tensorboard": (label, {"logging_dir": str(folder / "tensorboard")}),
        "trackio": (project, {"name": experiment, "group": folder.name, "embed": False}),
        "wandb": (project, {"name": label, "group": folder.name, "reinit": "finish_previous"}),
    }
    return arguments.get(name, (project, {}))


def _description(plan: Plan, arm: str, result: SearchResult) -> dict[str, bool | int | float | str]:
    """Describe a plan: its size and rate, its roles in the search, and the settings of the search."""
    settings = to_json(result.spec).items()
    flat = {f"{topic}.{name}": value for topic, values in settings for name, value in values.items()}
    roles = [role for role in ("best", "baseline", "challenger") if getattr(result, role) == plan]
    return {
        "plan_id": plan.digest,
        "arm": arm,
        "roles": ", ".join(roles),
        "trainable_params": plan.trainable_params,
        "learning_rate": plan.learning_rate,
        **{name: value for name, value in flat.items() if isinstance(value, bool | int | float | str)},
    }

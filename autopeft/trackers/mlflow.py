"""MLflow: a run per search with a nested run per measurement, in the store of `MLFLOW_TRACKING_URI`."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from autopeft.extension import Values
from autopeft.trackers.parts import PROJECT, charted, client, require

_RESULTS = ("loss", "metric", "train_seconds")  # of a measurement; all else describes it
_PARENT = "mlflow.parentRunId"  # the tag by which MLflow nests runs


class MlflowRun:
    """The run of a search, whose metrics are the outcome, with the nested runs of its measurements."""

    def __init__(self, folder: Path, settings: Values) -> None:
        """Start the run of the search, with its settings as parameters."""
        mlflow = client("mlflow")
        self._entities: Any = client("mlflow.entities")
        self._client: Any = mlflow.MlflowClient()
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        known = self._client.get_experiment_by_name(name)
        self._experiment = self._client.create_experiment(name) if known is None else known.experiment_id
        self._parent = self._start(folder.name, settings, tags={})

    def measured(self, values: Values, *, number: int) -> None:
        """Log a nested run, and loss and metric by stage in the run of the search."""
        described = {name: value for name, value in values.items() if name not in _RESULTS}
        run = self._start(f"{values['stage']} {values['arm']}", described, tags={_PARENT: self._parent})
        results = {name: float(values[name]) for name in _RESULTS if name in values}
        self._log(run, results, step=number)
        self._client.set_terminated(run)
        self._log(self._parent, charted(values), step=number)

    def close(self, outcome: Values | None) -> None:
        """Log the outcome: numbers as metrics, words as tags."""
        words = {name: value for name, value in (outcome or {}).items() if isinstance(value, str)}
        numbers = {name: float(value) for name, value in (outcome or {}).items() if name not in words}
        self._log(self._parent, numbers, step=0)
        for name, word in words.items():
            self._client.set_tag(self._parent, name, word)
        self._client.set_terminated(self._parent, status="FAILED" if outcome is None else "FINISHED")

    def _start(self, name: str, params: Values, *, tags: dict[str, str]) -> str:
        """The id of a new run with parameters."""
        run = self._client.create_run(self._experiment, run_name=name, tags=tags)
        described = [self._entities.Param(key, str(value)) for key, value in params.items()]
        self._client.log_batch(run.info.run_id, params=described)
        return str(run.info.run_id)

    def _log(self, run: str, numbers: dict[str, float], *, step: int) -> None:
        self._client.log_batch(run, metrics=list(self._metrics(numbers, step)))

    def _metrics(self, numbers: dict[str, float], step: int) -> Iterator[Any]:
        now = time.time_ns() // 10**6  # milliseconds
        for name, value in numbers.items():
            yield self._entities.Metric(name, value, now, step)


class Mlflow:
    """Logs to any tracking server or local store of MLflow."""

    name = "mlflow"

    def require(self) -> None:
        """Raise SpecError without the package mlflow."""
        require(self.name)

    def open(self, folder: Path, settings: Values) -> MlflowRun:
        """Start a run in the experiment of `MLFLOW_EXPERIMENT_NAME`, else in `autopeft`."""
        return MlflowRun(folder, settings)


PART = Mlflow()

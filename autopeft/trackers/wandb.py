"""Weights & Biases: one run per search; `WANDB_PROJECT`, `WANDB_MODE` and other variables are respected."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from autopeft.extension import Values
from autopeft.trackers.parts import PROJECT, charted, client, require


class WandbRun:
    """A row of the history per measurement; the outcome is the run's summary."""

    def __init__(self, folder: Path, settings: Values) -> None:
        """Start a run beside any other that the process has; its output is not captured."""
        wandb = client("wandb")
        self._run: Any = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=folder.name,
            config=dict(settings),
            reinit="create_new",
            settings=wandb.Settings(console="off"),
        )

    def measured(self, values: Values, *, number: int) -> None:
        """Log the values, and loss and metric by stage."""
        self._run.log({**values, **charted(values)}, step=number)

    def close(self, outcome: Values | None) -> None:
        """Set the summary and finish; a search that broke off is marked as failed."""
        self._run.summary.update(dict(outcome or {}))
        self._run.finish(exit_code=int(outcome is None))


class Wandb:
    """Logs to the server of Weights & Biases, or to a folder with `WANDB_MODE=offline`."""

    name = "wandb"

    def require(self) -> None:
        """Raise SpecError without the package wandb."""
        require(self.name)

    def open(self, folder: Path, settings: Values) -> WandbRun:
        """Start a run in the project of `WANDB_PROJECT`, else in `autopeft`."""
        return WandbRun(folder, settings)


PART = Wandb()

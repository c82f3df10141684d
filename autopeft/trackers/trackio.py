"""Trackio: one local run per search, shown by `trackio show`; `TRACKIO_SPACE_ID` sends it to a Space."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from autopeft.extension import Values
from autopeft.trackers.parts import PROJECT, charted, client, require


class TrackioRun:
    """A step per measurement; the outcome is the last step."""

    def __init__(self, folder: Path, settings: Values) -> None:
        """Start a run; no dashboard is embedded in a notebook."""
        self._run: Any = client("trackio").init(
            project=PROJECT, name=folder.name, config=dict(settings), embed=False
        )

    def measured(self, values: Values, *, number: int) -> None:
        """Log the values, and loss and metric by stage."""
        self._run.log({**values, **charted(values)}, step=number)

    def close(self, outcome: Values | None) -> None:
        """Log the outcome after the last measurement, and finish."""
        if outcome is not None:
            self._run.log({f"outcome/{name}": value for name, value in outcome.items()})
        self._run.finish()


class Trackio:
    """Logs to a local database, or to a Space on the hub."""

    name = "trackio"

    def require(self) -> None:
        """Raise SpecError without the package trackio."""
        require(self.name)

    def open(self, folder: Path, settings: Values) -> TrackioRun:
        """Start a run in the project `autopeft`."""
        return TrackioRun(folder, settings)


PART = Trackio()

"""TensorBoard: event files in `tensorboard/` of the run's folder, read by `tensorboard --logdir`."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from autopeft.extension import Values
from autopeft.trackers.parts import charted, client, require

_SCALES = ("trainable_params", "learning_rate", "train_steps", "seed", "rung")


class TensorBoardRun:
    """Loss and metric as scalars, step by measurement, and a row per measurement in the tab HParams."""

    def __init__(self, folder: Path, settings: Values) -> None:
        """Replace the events of an earlier start, whose measurements a resumed search logs again."""
        shutil.rmtree(folder, ignore_errors=True)
        self._writer: Any = client("torch.utils.tensorboard").SummaryWriter(str(folder))
        self._writer.add_text("settings", _table(settings))

    def measured(self, values: Values, *, number: int) -> None:
        """Add the scalars, and a row in a sub-folder of its own, which TensorBoard calls a run."""
        charts = charted(values)
        for tag, value in charts.items():
            self._writer.add_scalar(tag, value, number)
        row = {name: value for name, value in values.items() if name in _SCALES or isinstance(value, str)}
        metrics = {tag.rpartition("/")[2]: value for tag, value in charts.items()}
        self._writer.add_hparams(row, metrics, run_name=f"measurement-{number:04d}", global_step=number)
        self._writer.flush()

    def close(self, outcome: Values | None) -> None:
        """Add the outcome as a table, and its numbers as scalars at step 0."""
        for name, value in (outcome or {}).items():
            if isinstance(value, int | float):
                self._writer.add_scalar(f"outcome/{name}", value, 0)
        if outcome is not None:
            self._writer.add_text("outcome", _table(outcome))
        self._writer.close()


class TensorBoard:
    """Logs to event files beside the run; needs no server."""

    name = "tensorboard"

    def require(self) -> None:
        """Raise SpecError without the package tensorboard."""
        require(self.name)

    def open(self, folder: Path, settings: Values) -> TensorBoardRun:
        """Start to write events into a sub-folder of the run."""
        return TensorBoardRun(folder / self.name, settings)


def _table(values: Values) -> str:
    """A table in Markdown, as the tab Text shows it."""
    return "\n".join(("| name | value |", "|---|---|", *(f"| {n} | {v} |" for n, v in values.items())))


PART = TensorBoard()

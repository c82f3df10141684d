"""The curve of a training: loss, learning rate, gradient norm and speed every ten steps."""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import torch

from autopeft.train.pausing import Position

CURVE_STEPS = 10  # between two points, since a look at losses waits for the device; heuristic
# A run is stopped when the loss of 100 steps, one after the other, is above twice the mean of the first ten:
# losses of a healthy run vary less, and a run that explodes ends far above. Heuristic.
_FIRST_STEPS, _HIGH, _MOST_HIGH_STEPS = 10, 2.0, 100


class DivergedError(FloatingPointError):
    """The loss became infinite or NaN during training, or stayed far above that of the first steps."""


class Curve:
    """Keeps losses and gradient norms on the device, looks at them now and then, and writes their means.

    A line of JSON is appended to `path` at each look, unless it is None. Steps of a resumed run may be in the
    file twice; the later line counts. A file that cannot be written is left out.
    """

    def __init__(self, path: Path | None, *, start: Position, n_steps: int) -> None:
        """Begin at a position; a run that begins at the first step replaces the file of an earlier one."""
        self._path, self._n_steps = path, n_steps
        self.first_loss, self.n_high = start.first_loss, start.n_high
        if path is not None:
            with contextlib.suppress(OSError):
                path.parent.mkdir(parents=True, exist_ok=True)
                if start.step == 0:
                    path.unlink(missing_ok=True)
        self._clear()

    def _clear(self) -> None:
        self._losses: list[tuple[int, torch.Tensor]] = []  # with their steps
        self._norms: list[torch.Tensor] = []
        self._n_tokens, self._since = 0, time.perf_counter()

    def add(
        self, step: int, losses: Sequence[torch.Tensor], *, gradient_norm: torch.Tensor, n_tokens: int
    ) -> None:
        """Keep what a step gave: the losses of its micro-batches, and the norm before clipping."""
        self._losses.append((step, torch.stack(list(losses)).mean()))
        self._norms.append(gradient_norm)
        self._n_tokens += n_tokens

    def look(self, *, learning_rate: float) -> None:
        """Write a point; raise DivergedError at the first step at which the run has diverged."""
        if not self._losses:
            return
        losses: list[float] = torch.stack([loss for _, loss in self._losses]).tolist()
        for (step, _), loss in zip(self._losses, losses, strict=True):
            self._require_sound(step, loss)
        gradient_norm = float(torch.stack(self._norms).mean())
        point = {
            "step": self._losses[-1][0] + 1,
            "loss": fmean(losses),
            "learning_rate": learning_rate,
            "gradient_norm": gradient_norm if math.isfinite(gradient_norm) else None,  # skipped in float16
            "tokens_per_second": round(self._n_tokens / (time.perf_counter() - self._since)),
        }
        if self._path is not None:
            with contextlib.suppress(OSError), self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(point) + "\n")
        self._clear()

    def _require_sound(self, step: int, loss: float) -> None:
        """Raise DivergedError if the loss is infinite or NaN, or has been high for long."""
        where = f"diverged at step {step + 1} of {self._n_steps}"
        if not math.isfinite(loss):
            raise DivergedError(f"{where}: the loss is not finite")
        if step == 0:
            self.first_loss = loss
        elif step < _FIRST_STEPS:
            self.first_loss += (loss - self.first_loss) / (step + 1)
        self.n_high = self.n_high + 1 if loss > _HIGH * self.first_loss else 0
        if self.n_high == _MOST_HIGH_STEPS:
            raise DivergedError(f"{where}: the loss of {self.n_high} steps was above twice the first ones")

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

CURVE_STEPS = 10  # between two points, since a look at losses waits for the device; heuristic


class DivergedError(FloatingPointError):
    """The loss became infinite or NaN during training."""


class Curve:
    """Keeps losses and gradient norms on the device, looks at them now and then, and writes their means.

    A line of JSON is appended to `path` at each look, unless it is None. Steps of a resumed run may be in the
    file twice; the later line counts. A file that cannot be written is left out.
    """

    def __init__(self, path: Path | None, *, start: int, n_steps: int) -> None:
        """Begin at a step; a run that begins at the first one replaces the file of an earlier one."""
        self._path, self._n_steps = path, n_steps
        if path is not None:
            with contextlib.suppress(OSError):
                path.parent.mkdir(parents=True, exist_ok=True)
                if start == 0:
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
        self._losses += [(step, loss) for loss in losses]
        self._norms.append(gradient_norm)
        self._n_tokens += n_tokens

    def look(self, *, learning_rate: float) -> None:
        """Write a point; raise DivergedError for the first step whose loss is infinite or NaN."""
        if not self._losses:
            return
        losses, norms = torch.stack([loss for _, loss in self._losses]).tolist(), torch.stack(self._norms)
        for (step, _), loss in zip(self._losses, losses, strict=True):
            if not math.isfinite(loss):
                raise DivergedError(f"diverged at step {step + 1} of {self._n_steps}: the loss is not finite")
        gradient_norm = float(norms.mean())
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

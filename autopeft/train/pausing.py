"""Saves and restores the state of a run, which resumes to the same bits.

The position in the data is not stored, since the rows of a step follow from the seed.
"""

from __future__ import annotations

import io
import logging
import math
import pickle
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.amp import GradScaler
from torch.optim import Optimizer

from autopeft.errors import RunDirError
from autopeft.model.devices import devices_of
from autopeft.store import replaced_file

_FILE = "paused.pt"
_SECONDS = 60.0  # between two states of a run at least; heuristic
_SHARE = 0.01  # of the time, at most, that keeping the states of a run takes; heuristic

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Position:
    """The progress of a run."""

    step: int = 0  # steps done
    seconds: float = 0.0  # of training
    began: int = 0  # step at which the full run took over from its short run; 0 without one
    began_seconds: float = 0.0  # of training before that step
    saved_bytes: int = 0  # most memory so far, without gradients and moments
    first_loss: float = math.inf  # mean loss of the first ten steps, or of those so far
    n_high: int = 0  # latest steps, one after the other, whose loss was far above it


def kept_step(folder: Path) -> int | None:
    """Return the step of the state in a folder; None if it is missing or damaged."""
    state = _read(folder)
    return None if state is None else int(state["position"]["step"])


def _read(folder: Path) -> dict[str, Any] | None:
    """Read the state in a folder; None if it is missing or damaged."""
    try:
        state: dict[str, Any] = torch.load(folder / _FILE, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, pickle.UnpicklingError):
        return None
    return state


class UnderWay:
    """Keeps the latest state of a training run in a folder, a minute or more apart, if it has one."""

    def __init__(self, folder: Path | None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder, self._clock = folder, clock
        self._kept_at, self._wait_seconds = clock(), _SECONDS

    def resume(
        self, model: nn.Module, optimizer: Optimizer, scaler: GradScaler, *, last_step: int
    ) -> Position:
        """Restore the kept state; return its position, step 0 without one up to `last_step`."""
        state = None if self._folder is None else _read(self._folder)
        if state is None or state["position"]["step"] > last_step:
            return Position()
        with torch.no_grad():
            for name, parameter in _trained_parameters(model).items():
                parameter.copy_(state["parameters"][name])
        optimizer.load_state_dict({**optimizer.state_dict(), "state": state["moments"]})
        scaler.load_state_dict(state["scaler"])
        torch.random.set_rng_state(state["rng"])
        for device, rng in zip(_gpus_of(model), state["rng_of_gpus"], strict=False):
            torch.cuda.set_rng_state(rng, device)
        return Position(**state["position"])

    def is_due(self) -> bool:
        """Return whether to keep a state now."""
        return self._folder is not None and self._clock() - self._kept_at >= self._wait_seconds

    def keep(self, position: Position, model: nn.Module, optimizer: Optimizer, scaler: GradScaler) -> None:
        """Write the state of a run at a position, instead of the one before it."""
        if self._folder is None:
            return
        started = self._clock()
        state = {
            "position": asdict(position),
            "parameters": _trained_parameters(model),
            "moments": optimizer.state_dict()["state"],
            "scaler": scaler.state_dict(),
            "rng": torch.random.get_rng_state(),
            "rng_of_gpus": [torch.cuda.get_rng_state(device) for device in _gpus_of(model)],
        }
        written = io.BytesIO()  # to a file, torch would report a full disk as an error of its own
        torch.save(state, written)
        try:
            with replaced_file(self._folder / _FILE) as fresh:
                fresh.write_bytes(written.getbuffer())
        except RunDirError as error:
            log.warning("The state of the training was not kept: %s", error)
        self._kept_at = self._clock()
        self._wait_seconds = max(_SECONDS, (self._kept_at - started) / _SHARE)


def _trained_parameters(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: each.detach() for name, each in model.named_parameters() if each.requires_grad}


def _gpus_of(model: nn.Module) -> list[torch.device]:
    return [device for device in devices_of(model) if device.type == "cuda"]

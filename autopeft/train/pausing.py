"""Saves and restores the state of a run, which resumes to the same bits.

The position in the data is not stored, since the rows of a step follow from the seed.
"""

from __future__ import annotations

import json
import logging
import math
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn
from torch.amp import GradScaler
from torch.optim import Optimizer

from autopeft.model.devices import devices_of

_FILE = "paused.safetensors"
_MOMENTS = ("exp_avg", "exp_avg_sq", "step")
_SECONDS = 60.0  # between two states of a run at least; heuristic
_SHARE = 0.01  # of the time, at most, that keeping the states of a run takes; heuristic

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Position:
    """The progress of a run."""

    step: int = 0  # steps done
    widest_tokens: int = 0  # of the widest micro-batch so far, padding included; 0 before one was counted
    saved_bytes: int = 0  # most memory so far, without gradients and moments
    n_full: int = 0  # steps of the full run to which the state belongs
    began: int = 0  # step at which the full run took over from its short run; 0 without one
    seconds: float = 0.0  # of training since `began`
    short_seconds: float = 0.0  # of the short run up to its branch, in the state of a branch
    first_loss: float = math.inf  # mean loss of the first ten steps, or of those so far
    n_high: int = 0  # latest steps, one after the other, whose loss was far above it


@dataclass(frozen=True, kw_only=True)
class State:
    """A paused run: its position, and CPU copies of all tensors that its next step needs."""

    position: Position
    tensors: Mapping[str, torch.Tensor]


def pause(position: Position, model: nn.Module, optimizer: Optimizer, scaler: GradScaler) -> State:
    """Copy the state of a run at a position."""
    tensors = {"rng": torch.random.get_rng_state()}
    for index, device in enumerate(devices_of(model)):
        if device.type == "cuda":
            tensors[f"rng.cuda.{index}"] = torch.cuda.get_rng_state(device)
    if scaler.is_enabled():
        tensors["scaler"] = torch.tensor([scaler.get_scale(), scaler.state_dict()["_growth_tracker"]])
    for name, parameter in _trained_parameters(model).items():
        tensors[f"value.{name}"] = parameter
        for moment in _MOMENTS:
            if parameter in optimizer.state:
                tensors[f"{moment}.{name}"] = optimizer.state[parameter][moment]
    copies = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
    return State(position=position, tensors=copies)


def write(state: State, folder: Path) -> None:
    """Write a state to a folder, in full or not at all; an earlier state is replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    fresh = folder / f".{_FILE}.{secrets.token_hex(4)}.tmp"
    try:
        metadata = {"position": json.dumps(asdict(state.position))}
        save_file(dict(state.tensors), fresh, metadata=metadata)
        fresh.replace(folder / _FILE)
    finally:
        fresh.unlink(missing_ok=True)


def read(folder: Path) -> State | None:
    """Read the state in a folder; None if it is missing or damaged."""
    try:
        with safe_open(folder / _FILE, framework="pt") as file:
            position = Position(**json.loads(file.metadata()["position"]))
            # Copies, since tensors that lie in the file would keep Windows from replacing it.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118, no mapping
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return None
    return State(position=position, tensors=tensors)


def kept_step(folder: Path) -> int | None:
    """Return the step of the state in a folder; None if it is missing or damaged."""
    state = read(folder)
    return None if state is None else state.position.step


def resume(
    state: State | None,
    model: nn.Module,
    optimizer: Optimizer,
    scaler: GradScaler,
    *,
    n_full: int,
) -> Position:
    """Restore model, optimizer, scaler and torch's generators; return the position.

    Without a state, or with one of other parameters or of another length, nothing changes: it is step 0.
    """
    trained = _trained_parameters(model)
    shapes = {f"value.{name}": parameter.shape for name, parameter in trained.items()}
    tensors = {} if state is None else state.tensors
    kept = {name: tensor.shape for name, tensor in tensors.items() if name.startswith("value.")}
    if state is None or kept != shapes or state.position.n_full != n_full:
        return Position(n_full=n_full)
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(tensors[f"value.{name}"])
            if f"step.{name}" in tensors:  # copied, since AdamW changes its state in place
                moments = {moment: tensors[f"{moment}.{name}"].clone() for moment in _MOMENTS}
                placed = {moment: tensor.to(parameter.device) for moment, tensor in moments.items()}
                if not optimizer.defaults["fused"]:  # then AdamW keeps its step count on the CPU
                    placed["step"] = moments["step"]
                optimizer.state[parameter] = placed
    if "scaler" in tensors:
        scale, n_since = tensors["scaler"].tolist()  # n_since: steps since the scale last changed
        scaler.load_state_dict({**scaler.state_dict(), "scale": scale, "_growth_tracker": int(n_since)})
    torch.random.set_rng_state(tensors["rng"])
    for index, device in enumerate(devices_of(model)):
        if device.type == "cuda" and f"rng.cuda.{index}" in tensors:
            torch.cuda.set_rng_state(tensors[f"rng.cuda.{index}"], device)
    return state.position


def _trained_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


@dataclass(kw_only=True)
class UnderWay:
    """Keeps the latest state of one training run in a folder, a minute or more apart.

    If writing is slow, states are further apart, so that it takes at most a hundredth of the time.
    """

    folder: Path
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        self._kept_at, self._wait_seconds, self._is_long = self.clock(), _SECONDS, False

    def load(self) -> State | None:
        """Return the state that an earlier process kept, if any."""
        state = read(self.folder)
        self._is_long = state is not None
        return state

    def is_due(self, *, is_last: bool) -> bool:
        """Return whether to keep a state now; after the last step, if one was kept before."""
        return self.clock() - self._kept_at >= self._wait_seconds or (is_last and self._is_long)

    def keep(self, state: State) -> None:
        """Write a state instead of the one before it."""
        started = self.clock()
        try:
            write(state, self.folder)
        except (OSError, SafetensorError) as error:
            log.warning("The state of the training was not kept: %s", error)
        self._kept_at, self._is_long = self.clock(), True
        self._wait_seconds = max(_SECONDS, (self._kept_at - started) / _SHARE)

"""A training run on disk: parameters, optimizer and random state, to be resumed with the same bits.

The position in the data is not stored, since the rows of a step follow from the seed.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn
from torch.optim import Optimizer

from autopeft.train.rate_schedule import RateSchedule

_FILE = "paused.safetensors"
_MOMENTS = ("exp_avg", "exp_avg_sq", "step")


@dataclass(frozen=True, kw_only=True)
class Position:
    """How far a run has come: steps done, and the most tokens of a row with the bytes saved at that step.

    Only a run whose schedule begins with the cycles of `ends` (see `RateSchedule`) resumes it.
    """

    step: int = 0
    widest_tokens: int = 0
    saved_bytes: int = 0
    ends: tuple[int, ...] = ()


def pause(
    folder: Path, position: Position, model: nn.Module, optimizer: Optimizer, *, device: torch.device
) -> None:
    """Write the state of a run to a folder, in full or not at all; an earlier state is replaced."""
    tensors = {"rng": torch.random.get_rng_state()}
    if device.type == "cuda":
        tensors["rng.cuda"] = torch.cuda.get_rng_state(device)
    for name, parameter in _trained_parameters(model).items():
        tensors[f"value.{name}"] = parameter.detach().contiguous()
        for moment in _MOMENTS:
            if parameter in optimizer.state:
                tensors[f"{moment}.{name}"] = optimizer.state[parameter][moment].detach().contiguous()
    fresh = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    copies = {name: tensor.clone() for name, tensor in tensors.items()}  # save_file refuses tied tensors
    save_file(copies, fresh / _FILE, metadata={"position": json.dumps(asdict(position))})
    shutil.rmtree(folder, ignore_errors=True)
    fresh.rename(folder)


def resume(
    folder: Path, model: nn.Module, optimizer: Optimizer, *, schedule: RateSchedule, device: torch.device
) -> Position:
    """Restore a paused run that is the beginning of this schedule; returns its position.

    It is step 0 if the state is missing, damaged, of other parameters, of another schedule or too far on.
    """
    try:
        with safe_open(folder / _FILE, framework="pt") as file:
            stored = json.loads(file.metadata()["position"])
            position = Position(**{**stored, "ends": tuple(stored["ends"])})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, no mapping
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return Position()
    trained = _trained_parameters(model)
    shapes = {name: tensor.shape for name, tensor in tensors.items() if name.startswith("value.")}
    fits = shapes == {f"value.{name}": parameter.shape for name, parameter in trained.items()}
    is_beginning = position.ends and position.ends == schedule.ends[:-1][: len(position.ends)]
    if not fits or not is_beginning or position.step != position.ends[-1]:
        return Position()
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(tensors[f"value.{name}"])
            if f"step.{name}" in tensors:
                state = {moment: tensors[f"{moment}.{name}"].to(parameter.device) for moment in _MOMENTS}
                # AdamW keeps its step count on the CPU; its moments lie with the parameter.
                optimizer.state[parameter] = {**state, "step": tensors[f"step.{name}"]}
    torch.random.set_rng_state(tensors["rng"])
    if "rng.cuda" in tensors and device.type == "cuda":
        torch.cuda.set_rng_state(tensors["rng.cuda"], device)
    return position


def _trained_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}

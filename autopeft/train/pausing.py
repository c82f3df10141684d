"""A training run that pauses: parameters, optimizer and random state on disk, and back to the last bit.

The position in the data needs no file: the rows of a step follow from the seed.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from autopeft.train.course import Course

_FILE = "paused.safetensors"
_MOMENTS = ("exp_avg", "exp_avg_sq", "step")


@dataclass(frozen=True, kw_only=True)
class Position:
    """Where a run stands: steps done, and the most tokens of a row so far with what that step held.

    `ends` are the legs that it went through (see `Course`); only a run that begins with these takes it up.
    """

    step: int = 0
    widest_tokens: int = 0
    saved_bytes: int = 0
    ends: tuple[int, ...] = ()


def pause(
    folder: Path, position: Position, model: nn.Module, optimizer: torch.optim.Optimizer, *, device: Any
) -> None:
    """Write the state of a run to a folder, whole or not at all, in place of an earlier one."""
    tensors = {"rng": torch.random.get_rng_state()}
    if torch.device(device).type == "cuda":
        tensors["rng.cuda"] = torch.cuda.get_rng_state(device)
    for name, parameter in _trained(model).items():
        tensors[f"value.{name}"] = parameter.detach().contiguous()
        for moment in _MOMENTS:
            if parameter in optimizer.state:
                tensors[f"{moment}.{name}"] = optimizer.state[parameter][moment].detach().contiguous()
    fresh = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    # Copies: tied or viewed tensors would be refused, and one file holds each name once.
    save_file(
        {name: tensor.clone() for name, tensor in tensors.items()},
        fresh / _FILE,
        metadata={"position": json.dumps(asdict(position))},
    )
    shutil.rmtree(folder, ignore_errors=True)
    fresh.rename(folder)


def take_up(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, *, course: Course, device: Any
) -> Position:
    """Put a paused run back, if it is the beginning of this course; gives where it stands.

    A state that is missing, damaged, of other parameters, of another course or too far on is passed over:
    the run begins anew, which takes longer and gives the same numbers.
    """
    try:
        with safe_open(folder / _FILE, framework="pt") as file:
            told = json.loads(file.metadata()["position"])
            position = Position(**{**told, "ends": tuple(told["ends"])})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, no mapping
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return Position()
    trained = _trained(model)
    values = {name: tensors.get(f"value.{name}") for name in trained}
    fits = all(
        value is not None and value.shape == trained[name].shape for name, value in values.items()
    ) and sum(name.startswith("value.") for name in tensors) == len(trained)
    is_beginning = position.ends and position.ends == course.ends[:-1][: len(position.ends)]
    if not fits or not is_beginning or position.step != position.ends[-1]:
        return Position()
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(tensors[f"value.{name}"])
            if f"step.{name}" in tensors:
                optimizer.state[parameter] = {
                    moment: _placed(tensors[f"{moment}.{name}"], parameter, moment) for moment in _MOMENTS
                }
    torch.random.set_rng_state(tensors["rng"])
    if "rng.cuda" in tensors and torch.device(device).type == "cuda":
        torch.cuda.set_rng_state(tensors["rng.cuda"], device)
    return position


def _placed(tensor: torch.Tensor, parameter: nn.Parameter, moment: str) -> torch.Tensor:
    """The step count stays on the CPU, where AdamW keeps it; the moments lie where the parameter does."""
    return tensor if moment == "step" else tensor.to(parameter.device)


def _trained(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}

"""What `estimate` is asked, and what it answers."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal

from autopeft import estimate
from autopeft.errors import SpecError, UnknownNameError
from autopeft.estimate import Rates, StepAnswer, Trainee

DTYPES: dict[str, Literal["bfloat16", "float32"]] = {
    "auto": "bfloat16",
    "bfloat16": "bfloat16",
    "float32": "float32",
}
SWITCH = {"auto": None, "on": True, "off": False}
_LOOPS = ("autopeft", "trainer")
_BITS = ("none", "4bit", "8bit")
_DEVICES = ("cuda", "cpu")
_DEVICE = re.compile(r"cpu|cuda(:\d+)?")


@dataclass(frozen=True, kw_only=True)
class RunRequest:
    """The run whose time is predicted: its task, data and length; `price` is per hour, in any currency.

    Without a `task` it is that of the plan, or of the class that the model's config names.
    """

    task: str | None = None
    data: str | None = None
    epochs: float | None = None
    max_steps: int | None = None
    price: float | None = None


@dataclass(frozen=True, kw_only=True)
class EstimateRequest:
    """What to estimate: the argument and flags of the command, as the user typed them.

    `trained` is a plan, a run, an adapter config, its folder, a method such as `lora_r16`, or `full`.
    `device` is the name of a card, `cuda` or `cpu`.
    """

    trained: str
    model_id: str | None = None
    revision: str | None = None
    batch_size: int | None = None
    max_length: int | None = None
    dtype: str = "auto"
    quantize: str | None = None
    checkpointing: str = "auto"
    like: str = "autopeft"
    device: str = "cuda"
    memory: str | None = None
    run: RunRequest = RunRequest()


@dataclass(frozen=True, kw_only=True)
class RunEstimate:
    """A full run of `n_steps` and a search at its default limit of cost, which is `search_runs` full runs.

    `price` is that of an hour, in any currency; None if it is unknown.
    """

    n_steps: int
    seconds: float
    search_runs: float
    price: float | None = None


@dataclass(frozen=True, kw_only=True)
class StepEstimate:
    """What is trained, how, and what it takes.

    `dtype` is bfloat16 or float32, `like` names the loop. `rates` are None where the device is not known;
    then no time is predicted. `run` is None where the number of steps is not known.
    """

    trainee: Trainee
    dtype: str
    like: str
    on_gpu: bool
    answer: StepAnswer
    rates: Rates | None = None
    run: RunEstimate | None = None


def check_request(request: EstimateRequest) -> None:
    """Refuse words and numbers that a flag does not take."""
    words = {
        "--dtype": (request.dtype, tuple(DTYPES)),
        "--quantize": ("none" if request.quantize is None else request.quantize, _BITS),
        "--checkpointing": (request.checkpointing, tuple(SWITCH)),
        "--like": (request.like, _LOOPS),
    }
    faults = [
        f"{flag} is {value!r}, it should be {' or '.join(known)}"
        for flag, (value, known) in words.items()
        if value not in known
    ]
    device = request.device.lower()
    if device not in estimate.CARDS and not _DEVICE.fullmatch(device):
        hint = "Did you mean 'cuda'?" if device == "gpu" else ""  # and not cpu, which is as near
        raise UnknownNameError("device", device, [*_DEVICES, *estimate.CARDS], hint=hint)
    numbers: dict[str, tuple[float | None, int]] = {
        "--batch-size": (request.batch_size, 1),
        "--max-length": (request.max_length, 2),
        "--max-steps": (request.run.max_steps, 1),
        "--gpu-price": (request.run.price, 0),
    }
    faults += [
        f"{flag} is {value}, it should be a number of at least {least}"
        for flag, (value, least) in numbers.items()
        if value is not None and not least <= value < math.inf
    ]
    epochs = request.run.epochs
    if epochs is not None and not 0 < epochs < math.inf:
        faults.append(f"--epochs is {epochs:g}, it should be a number above 0")
    elif epochs is not None and request.run.data is None:
        faults.append(f"--epochs is {epochs:g} and counts the rows of --data, which is missing; pass it too")
    if faults:
        raise SpecError(f"{'; '.join(faults)}.")

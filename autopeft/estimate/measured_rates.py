"""The rates of this machine's devices, measured in a few seconds."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import torch
from torch import nn
from torch.nn import functional

from autopeft.estimate.memory_tracker import MemoryTracker
from autopeft.estimate.rates import Rates

# Rows and columns of the products, about a small model's width on a CPU, and how many are timed together.
_CPU_SIDE, _CPU_TOGETHER = 512, 1
_GPU_SIDE, _GPU_TOGETHER = 4096, 20
_COPIED = 2**24  # numbers of the copies, more than caches hold, as in a backward pass
_SMALL, _DEPTH = 64, 4  # width and layers of a step whose time is that of starting kernels; heuristic
_REPEATS = 9  # timings whose median counts; heuristic


def measure_rates(device: torch.device, dtype: torch.dtype) -> Rates:
    """Measure the rates of a device in a number format."""
    is_cpu = device.type == "cpu"
    side, n_together = (_CPU_SIDE, _CPU_TOGETHER) if is_cpu else (_GPU_SIDE, _GPU_TOGETHER)
    matrices = torch.ones(2, side, side, device=device, dtype=dtype)
    numbers = torch.ones(2, _COPIED, device=device)
    with torch.inference_mode():
        product = _seconds(lambda: matrices[0] @ matrices[1], device, n_together)
        # The target exists already: allocating new memory takes several times as long.
        copy = _seconds(lambda: numbers[0].copy_(numbers[1]), device, n_together)
    return Rates(
        name=torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        flops=2 * side**3 / product,
        bytes=numbers.nbytes / copy,
        call_seconds=_call_seconds(device, dtype),
        runs_ahead=not is_cpu,
    )


class _SmallLayer(nn.Module):
    """A frozen linear layer with a low-rank adapter, as in an adapted model."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen = nn.Linear(_SMALL, _SMALL).requires_grad_(False)
        self.norm = nn.LayerNorm(_SMALL).requires_grad_(False)
        self.down, self.up = nn.Linear(_SMALL, 4, bias=False), nn.Linear(4, _SMALL, bias=False)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return outputs of the shape of the inputs."""
        change = self.up(self.down(inputs))
        return torch.as_tensor(self.norm(inputs + functional.gelu(self.frozen(inputs) + 2 * change)))


def _call_seconds(device: torch.device, dtype: torch.dtype) -> float:
    """Measure the seconds from one kernel's start to the next in a training step, with its Python code."""
    model = nn.Sequential(*(_SmallLayer() for _ in range(_DEPTH))).to(device)
    inputs = torch.ones(_SMALL, _SMALL, device=device)

    def step() -> None:
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            outputs = model(inputs)
        outputs.sum().backward()
        model.zero_grad()

    step()
    with MemoryTracker() as tracker:
        step()
    return float(_seconds(step, device) / tracker.n_calls)


def _seconds(work: Callable[[], object], device: torch.device, n_together: int = 1) -> float:
    """Return the median seconds of `work`, run `n_together` times between two readings of the clock."""
    times = []
    for _ in range(1 + _REPEATS):
        started = time.perf_counter()
        for _ in range(n_together):
            work()
        if device.type != "cpu":
            torch.accelerator.synchronize(device)
        times.append((time.perf_counter() - started) / n_together)
    return median(times[1:])

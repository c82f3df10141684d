"""Where devices differ: numbers in float64, and the random generator that draws on them."""

from __future__ import annotations

import contextlib

import torch

_WITH_GENERATOR = ("cuda", "mps")  # devices that draw by a generator of their own, not by the CPU's


def on_float64_device(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor, or its copy on the CPU where the device has no float64, as Apple's GPUs."""
    return tensor.cpu() if tensor.device.type == "mps" else tensor


def to_float64(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor in float64, on the CPU where its device has none."""
    return on_float64_device(tensor).double()


def has_used_gpus() -> bool:
    """Whether this process has begun to use GPUs of NVIDIA or AMD."""
    return bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]


def forked_rng(device: torch.device) -> contextlib.AbstractContextManager[None]:
    """A context after which the generators of the CPU and of a device are in the state of before."""
    if device.type in _WITH_GENERATOR:
        return torch.random.fork_rng(devices=[device], device_type=device.type)
    return torch.random.fork_rng(devices=[])


def has_own_generator(device: torch.device) -> bool:
    """Whether random numbers on a device are drawn by a generator of its own."""
    return device.type in _WITH_GENERATOR


def random_state(device: torch.device) -> torch.Tensor:
    """The state of the generator that draws on a device, as bytes on the CPU."""
    if device.type == "cuda":
        return torch.cuda.get_rng_state(device)
    return torch.mps.get_rng_state() if device.type == "mps" else torch.random.get_rng_state()


def set_random_state(device: torch.device, state: torch.Tensor) -> None:
    """Set the generator that draws on a device to a state of `random_state`."""
    if device.type == "cuda":
        torch.cuda.set_rng_state(state, device)
    elif device.type == "mps":
        torch.mps.set_rng_state(state)
    else:
        torch.random.set_rng_state(state)

"""How measurements are spread: the number of workers, and the device of each."""

from __future__ import annotations

import logging

import torch

from autopeft import engine
from autopeft.executors import EXECUTORS, Executor
from autopeft.model import device_names, find_device, like_gpus
from autopeft.records import IN_MEMORY, ExecutionSpec, RunSpec

_THREADS = 2  # of a worker on a CPU, at least; chosen by hand
_MOST_ON_CPU = engine.LEAST_WAVE  # more would be idle, and each may hold weights of its own

log = logging.getLogger(__name__)


def worker_devices(execution: ExecutionSpec) -> tuple[str | None, ...]:
    """The devices that workers take in turn: those of `--device`; without it all GPUs like the first.

    Fewer `--workers` than GPUs take the first ones. None is the default device.
    """
    if execution.device is not None or not _places_workers(execution):
        return device_names(execution.device)
    return like_gpus()[: execution.workers] or (None,)


def n_workers(execution: ExecutionSpec) -> int:
    """As many as `--workers` says, and one for each device at least; `auto` adds some on a CPU alone."""
    devices = worker_devices(execution)
    if execution.workers is None and _places_workers(execution) and _kind(devices[0]) == "cpu":
        return max(1, min(_MOST_ON_CPU, torch.get_num_threads() // _THREADS))
    return max(execution.workers or 1, len(devices))


def wave(execution: ExecutionSpec) -> int:
    """Plans that are proposed at once: four, or as many as workers, so that none of these is idle."""
    return max(engine.LEAST_WAVE, n_workers(execution))


def n_sharing(execution: ExecutionSpec) -> int:
    """How many processes that measure share a device."""
    if not _places_workers(execution):
        return 1
    return -(-n_workers(execution) // len(worker_devices(execution)))


def has_workers(execution: ExecutionSpec) -> bool:
    """Whether other processes than this one measure, each with a base model of its own."""
    return not _executor(execution).shares_memory


def tell_spread(spec: RunSpec) -> None:
    """Log what was not asked for: the workers that were derived, or GPUs that are left unused."""
    execution = spec.execution
    if _places_workers(execution):
        if execution.workers is None or execution.device is None:
            places = ", ".join(name or _kind(name) for name in worker_devices(execution))
            log.info("Workers: %d, on %s; --workers and --device change that.", n_workers(execution), places)
    elif _executor(execution).shares_memory and execution.device is None:
        n_gpus = len(like_gpus())
        if n_gpus > 1 and IN_MEMORY not in (spec.model.id, spec.data.source):
            log.info("%d GPUs are visible, and one is used: --executor process uses all of them.", n_gpus)


def _kind(device: str | None) -> str:
    """The kind of a device, `cpu`, `cuda` or `mps`; None is the default device."""
    return find_device(None).type if device is None else device.partition(":")[0]


def _places_workers(execution: ExecutionSpec) -> bool:
    """Whether the executor has workers on this machine, each on the device that it is given."""
    executor = _executor(execution)
    return not (executor.shares_memory or executor.assigns_gpus)


def _executor(execution: ExecutionSpec) -> Executor:
    return EXECUTORS[execution.executor]

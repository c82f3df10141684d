"""The workers of an executor: each prepares the bench of a run for itself, from the settings of the run."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from autopeft import model
from autopeft.errors import RunDirError, SpecError
from autopeft.executors import EXECUTORS, Executor
from autopeft.model.devices import SPREAD, find_device
from autopeft.plugins import allow_own_function
from autopeft.setup.build import Prepared, prepare
from autopeft.setup.resources import n_workers, worker_devices
from autopeft.setup.resuming import loaded_facts
from autopeft.store import STATE, RunDir
from autopeft.store.state import differences
from autopeft.types import Fidelity, Measurement, Plan, RunSpec, with_setting

Measure = Callable[[Plan, Fidelity], Measurement]

log = logging.getLogger(__name__)


def check_executor(spec: RunSpec) -> None:
    """Check that the executor can do the measurements of a run, and log how it spreads them.

    Raises:
        SpecError: A package of the executor is missing, it has fewer workers than requested, chooses the GPUs
            itself, or has workers that cannot load objects in memory.
    """
    executor = EXECUTORS[spec.execution.executor]
    for package in executor.packages:
        if importlib.util.find_spec(package) is None:
            raise SpecError(
                f"The executor {executor.name} needs the package {package}; install it with: "
                f"pip install {package}."
            )
    device = spec.execution.device or ""
    if executor.assigns_gpus and (":" in device or device.lower() == SPREAD):
        raise SpecError(
            f"--device is {device}, and the executor {executor.name} gives each worker a GPU "
            "by itself; set --device to cuda and --workers to the number of GPUs."
        )
    if executor.max_workers is not None and n_workers(spec.execution) > executor.max_workers:
        raise SpecError(
            f"The executor {executor.name} takes {executor.max_workers} worker on one device, not "
            f"{n_workers(spec.execution)}; pass --executor process, or leave --workers out."
        )
    if not executor.shares_memory and spec.is_in_memory:
        raise SpecError(
            f"The executor {executor.name} loads model and data in other processes, which cannot share "
            "objects in memory; save them and pass their paths, or use --executor serial."
        )
    if not (executor.shares_memory or executor.assigns_gpus):
        places = ", ".join(name or find_device(None).type for name in worker_devices(spec.execution))
        log.info("Workers: %d, on %s; --workers and --device change that.", n_workers(spec.execution), places)


def start_workers(executor: Executor, run: RunDir, prepared: Prepared) -> Measure:
    """Start an executor's workers; returns the function to submit.

    Workers get the devices of `worker_devices` in turn, and equal shares of the processor's threads. An
    executor that assigns GPUs itself gets only their type. If workers are other processes, the main process
    frees its GPU for them.
    """
    spec = prepared.spec
    kind = prepared.base.device.type
    n_parts = n_workers(spec.execution)
    make = WorkerBench(
        spec=with_setting(spec, "execution.memory_bytes", prepared.bench.compute.memory_bytes),
        run=run.path.resolve(),
        facts=loaded_facts(prepared),
        devices=(kind,) if executor.assigns_gpus else worker_devices(spec.execution),
        n_threads=max(1, torch.get_num_threads() // n_parts),
    )
    if kind == "cuda" and not executor.shares_memory:
        # Workers load the model themselves; the main process now needs only names, shapes and a digest.
        device = prepared.base.device
        prepared.base.leave_device()
        model.release_memory(device)
    return executor.start(make, local=prepared.bench.measure, n_workers=n_parts, uses_gpu=kind == "cuda")


@dataclass(frozen=True, kw_only=True)
class WorkerBench:
    """Makes the measuring function of a worker, in its process; everything in it can be pickled."""

    spec: RunSpec
    run: Path
    facts: Mapping[str, Any]
    devices: tuple[str | None, ...]
    n_threads: int

    def __call__(self, index: int) -> Measure:
        """Prepare the same bench as the main process, and return its measuring function.

        Raises:
            RunDirError: The run directory of the main process is missing.
            SpecError: The worker has other weights, data or library versions than the main process.
        """
        logging.getLogger("autopeft").setLevel(logging.ERROR)  # the main process logs all of it
        torch.set_num_threads(self.n_threads)
        run = RunDir(self.run)
        if not (run.state / STATE).is_file():
            raise RunDirError(
                f"{self.run} is not the run directory of the search; mount it there under the same path."
            )
        allow_own_function(self.spec.task.metric)  # as the main process did
        spec = with_setting(self.spec, "execution.device", self.devices[index % len(self.devices)])
        spec = with_setting(spec, "execution.workers", 1)  # `memory_bytes` is that of one worker already
        prepared = prepare(spec).kept_in(run)
        if differing := differences(self.facts, loaded_facts(prepared)):
            raise SpecError(f"A worker loaded something else than the search: {differing}.")
        return prepared.bench.measure

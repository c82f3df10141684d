"""What is set before torch is imported: memory and threads; and the import itself."""

from __future__ import annotations

import contextlib
import gc
import math
import os
import platform
import sys
from collections.abc import Iterator

from autopeft.cgroups import allowed_cores

# The last one is torch's new name, but torch 2.9 to 2.11 ignore segments in it.
_ALLOCATOR_VARIABLES = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF", "PYTORCH_ALLOC_CONF")
# How often a thread of libgomp looks for work before it sleeps; 300,000 by default. Measured on two cores: as
# fast as the default on idle ones, five times as fast if another program takes one
# (research/2026-11-30-threads.md).
_SPINS = "3000"


@contextlib.contextmanager
def heavy_imports() -> Iterator[None]:
    """Turn the garbage collector and torch's compiler off while the commands are imported.

    Imports make millions of objects that stay, which the collector would visit again and again. bitsandbytes,
    which peft imports, compiles four functions for devices that autopeft does not use. Together they account
    for half of the import time.
    """
    is_new = "TORCHDYNAMO_DISABLE" not in os.environ  # which the trainer of `tune` would inherit
    os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        if is_new:
            del os.environ["TORCHDYNAMO_DISABLE"]


def expand_segments() -> None:
    """Let torch's memory on GPUs grow in place, so that batches of many lengths leave no gaps in it.

    It fails on WSL. A variable that the user has set stays; workers inherit it.
    """
    is_linux = sys.platform == "linux" and "microsoft" not in platform.release().lower()
    if is_linux and not any(name in os.environ for name in _ALLOCATOR_VARIABLES):
        os.environ[_ALLOCATOR_VARIABLES[0]] = "expandable_segments:True"


def fit_threads() -> None:
    """Limit torch's threads to the cores that this process may use at once, and how long they spin.

    torch counts all cores that it sees, also those beyond the CPU limit of a container, or beyond a Slurm
    task that is not bound to cores. GNU's OpenMP threads spin while they wait for the slowest one; if another
    program has its core, that costs milliseconds per operation, so they sleep earlier. What the user has set
    stays. Workers on this machine inherit the variables.
    """
    limits = [math.ceil(cores)] if (cores := allowed_cores()) is not None else []
    by_slurm = os.environ.get("SLURM_CPUS_PER_TASK", "")
    if by_slurm.isdigit():
        limits.append(max(1, int(by_slurm)))
    if limits and min(limits) < len(os.sched_getaffinity(0)):
        os.environ.setdefault("OMP_NUM_THREADS", str(min(limits)))
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", _SPINS)

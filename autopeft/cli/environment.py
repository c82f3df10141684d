"""What is set before torch is imported: streams, memory and threads; and the import itself."""

from __future__ import annotations

import atexit
import contextlib
import gc
import math
import os
import platform
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from autopeft.containers import allowed_cores

_HEAVY = "autopeft.commands"
# torch reads them in this order. The last one is the new name, of which torch 2.9 to 2.11 take no segments;
# the first one is always taken, though torch before 2.12 calls it deprecated in a warning.
_NAMES = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF", "PYTORCH_ALLOC_CONF")
# In the names of kernels where GPUs lack them or fail: of Windows' Linux, and of Jetson boards.
_WITHOUT = ("microsoft", "tegra")


def open_missing_streams() -> None:
    """Drop what goes to a stream that the caller has closed (`2>&-`), for which Python has None."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115 - kept open


@contextlib.contextmanager
def heavy_imports() -> Iterator[None]:
    """Keep the garbage collector at rest while the commands are imported.

    Imports make millions of objects that stay, which the collector would visit again and again, and once
    more at the end of the process. They are frozen, so that it never does. If the commands are imported
    already, nothing changes.
    """
    if _HEAVY in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
        atexit.register(_thaw)


def _thaw() -> None:
    """Let the collector see all objects again where triton is loaded, which reports them as leaks else."""
    if "triton" in sys.modules:
        gc.unfreeze()


def expand_segments() -> None:
    """Let memory of GPUs of NVIDIA grow in place, so that batches of many lengths leave no gaps in it.

    What the user has set stays. Worker processes inherit the variable.
    """
    kernel = platform.release().lower()
    if sys.platform != "linux" or any(word in kernel for word in _WITHOUT) or not _is_for_nvidia():
        return
    if not any(name in os.environ for name in _NAMES):
        os.environ[_NAMES[0]] = "expandable_segments:True"


def _is_for_nvidia() -> bool:
    """Whether torch is built for GPUs of NVIDIA, as far as its version says; others would only warn."""
    try:
        built_for = version("torch").partition("+")[2]
    except PackageNotFoundError:
        return False
    return not built_for.startswith(("cpu", "rocm", "xpu"))


def fit_threads() -> None:
    """Let torch take no more threads than a container runs at once, or a task of Slurm was given.

    torch counts the cores that this process may run on. A container's limit of time hides none of them, nor
    does a Slurm that binds no tasks to cores: further threads would wait for each other in every product, or
    take the cores of other jobs. What the user has set stays. Worker processes inherit the variable.
    """
    limits = [math.ceil(cores)] if (cores := allowed_cores()) is not None else []
    by_slurm = os.environ.get("SLURM_CPUS_PER_TASK", "")
    if by_slurm.isdigit():
        limits.append(max(1, int(by_slurm)))
    if limits and min(limits) < len(os.sched_getaffinity(0)):
        os.environ.setdefault("OMP_NUM_THREADS", str(min(limits)))

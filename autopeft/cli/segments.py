"""How torch is to hold the memory of GPUs, set before it is imported."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version

# torch reads them in this order. The last one is the new name, of which torch 2.9 to 2.11 take no segments;
# the first one is always taken, though torch before 2.12 calls it deprecated in a warning.
_NAMES = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF", "PYTORCH_ALLOC_CONF")
# In the names of kernels where GPUs lack them or fail: of Windows' Linux, and of Jetson boards.
_WITHOUT = ("microsoft", "tegra")


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

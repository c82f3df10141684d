"""How much memory a device has left."""

from __future__ import annotations

import os
from pathlib import Path

import torch

_MEMINFO = Path("/proc/meminfo")  # on Linux; `MemAvailable` counts file caches, which the kernel gives up


def free_bytes(device: torch.device) -> int:
    """Memory that a GPU, or the machine for other devices, has left.

    Where the system does not say it (macOS, Windows), it is taken to be half of all memory, or 1 GiB.
    """
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if _MEMINFO.is_file():
        fields = dict(line.split(":") for line in _MEMINFO.read_text().splitlines())
        return int(fields["MemAvailable"].removesuffix("kB")) * 1024
    if "SC_PHYS_PAGES" in getattr(os, "sysconf_names", {}):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    return 2**30

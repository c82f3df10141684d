"""The memory and the cores that control groups of Linux leave to a container, or to a job of a cluster."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

_ROOT, _GROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
# The files of a group with its limit in bytes, its use, and how much of this is a cache of files, for both
# versions of control groups. A group without a limit has "max", or a number larger than any memory.
_MEMORY = (
    ("memory.max", "memory.current", "memory.stat"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "memory.stat"),
)


def left_bytes(*, root: Path = _ROOT, groups: Path = _GROUPS) -> int:
    """Compute how many bytes of memory control groups leave to this process; 2**62 without a limit.

    A container sees its own group as the root; the group of a Slurm or systemd job has more groups above it.
    All are mounted at `root`, and the file `groups` lists those of this process.
    """
    free = [2**62]
    for folder in _folders("memory", root, groups):
        for limit, used, statistics in _MEMORY:
            if (text := _read(folder / limit)).isdigit():
                cached = re.search(
                    r"^(?:total_)?inactive_file (\d+)", _read(folder / statistics), re.MULTILINE
                )
                free.append(int(text) - int(_read(folder / used) or 0) + (int(cached[1]) if cached else 0))
    return min(free)


def allowed_cores(*, root: Path = _ROOT, groups: Path = _GROUPS) -> float | None:
    """Compute how many cores control groups allow this process, > 0; None without a limit.

    The arguments are those of `left_bytes`.
    """
    shares = []
    for folder in _folders("cpu", root, groups):
        quota, period = (_read(folder / "cpu.max").split() or ["max"] * 2)[:2]
        if quota == "max":
            quota, period = _read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")
        if quota.isdigit() and period.isdigit() and int(quota) > 0 < int(period):  # -1 is no limit
            shares.append(int(quota) / int(period))
    return min(shares, default=None)


def _folders(controller: str, root: Path, groups: Path) -> Iterator[Path]:
    """Yield the folders of this process's groups that may limit a controller, innermost first."""
    for line in _read(groups).splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers or controller in controllers.split(","):  # version 2 lists none
            top = root / controller if controllers else root
            innermost = top / path.strip("/")
            yield from (folder for folder in (innermost, *innermost.parents) if folder.is_relative_to(top))


def _read(path: Path) -> str:
    """Read a file's text; empty if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""

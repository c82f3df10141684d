"""What a container, or a job of a cluster, may take of its machine, by its control groups on Linux."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

_ROOT, _GROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
# Of a group: its limit in bytes, what it uses, and what of this is a cache of files, for both versions of
# control groups. A group without a limit has "max", or a number larger than any memory.
_MEMORY = (
    ("memory.max", "memory.current", "memory.stat"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "memory.stat"),
)


def left_bytes(*, root: Path = _ROOT, groups: Path = _GROUPS) -> int:
    """Read how many bytes of memory control groups leave to this process; 2**62 without a limit.

    A container sees its own group as the root. A job of Slurm or systemd lies deeper, under more groups. They
    are mounted at `root`, and the file `groups` names those of this process.
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
    """Read how many cores' time control groups give this process, > 0; None without a limit.

    Arguments are those of `left_bytes`.
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
    """Yield the folders of this process's groups that may limit a controller, from the inmost to the root."""
    for line in _read(groups).splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers or controller in controllers.split(","):  # version 2 names none
            top = root / controller if controllers else root
            inmost = top / path.strip("/")
            yield from (folder for folder in (inmost, *inmost.parents) if folder.is_relative_to(top))


def _read(path: Path) -> str:
    """Read a file's text; empty if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""

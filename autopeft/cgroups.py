"""The memory and cores that control groups (version 2) leave to a container, or to a job of a cluster."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

_ROOT, _GROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def left_bytes(*, root: Path = _ROOT, groups: Path = _GROUPS) -> int:
    """Compute how many bytes of memory control groups leave to this process; 2**62 without a limit.

    A container sees its own group as the root; the group of a Slurm or systemd job has more groups above it.
    All are mounted at `root`, and the file `groups` lists those of this process.
    """
    free = [2**62]
    for folder in _folders(root, groups):
        if (limit := _read(folder / "memory.max")).isdigit():  # "max" without one
            cached = re.search(r"^inactive_file (\d+)", _read(folder / "memory.stat"), re.MULTILINE)
            used = int(_read(folder / "memory.current") or 0) - (int(cached[1]) if cached else 0)
            free.append(int(limit) - used)
    return min(free)


def allowed_cores(*, root: Path = _ROOT, groups: Path = _GROUPS) -> float | None:
    """Compute how many cores control groups allow this process, > 0; None without a limit.

    The arguments are those of `left_bytes`.
    """
    shares = []
    for folder in _folders(root, groups):
        quota, *period = _read(folder / "cpu.max").split() or ["max"]
        if quota.isdigit():
            shares.append(int(quota) / int(period[0]))
    return min(shares, default=None)


def _folders(root: Path, groups: Path) -> Iterator[Path]:
    """Yield the folders of this process's groups, innermost first."""
    for line in _read(groups).splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:  # version 1 names some
            innermost = root / path.strip("/")
            yield from (folder for folder in (innermost, *innermost.parents) if folder.is_relative_to(root))


def _read(path: Path) -> str:
    """Read a file's text; empty if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""

"""How many threads torch takes, set before it is imported."""

from __future__ import annotations

import math
import os

from autopeft.containers import allowed_cores


def fit_threads() -> None:
    """Let torch take no more threads than a container runs at once, or a task of Slurm was given.

    torch counts the cores that this process may run on. A limit of time hides none of them, and neither does
    a Slurm that binds no tasks to cores: threads beyond it would wait for each other in every product, or
    take the cores of other jobs. What the user has set stays. Worker processes inherit the variable.
    """
    limits = [math.ceil(cores)] if (cores := allowed_cores()) is not None else []
    given = os.environ.get("SLURM_CPUS_PER_TASK", "")
    if given.isdigit():
        limits.append(max(1, int(given)))
    if limits and min(limits) < len(os.sched_getaffinity(0)):
        os.environ.setdefault("OMP_NUM_THREADS", str(min(limits)))

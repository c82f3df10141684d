"""How many threads torch takes, set before it is imported."""

from __future__ import annotations

import math
import os

from autopeft.containers import allowed_cores


def fit_threads() -> None:
    """Let torch take no more threads than the limit of a container runs at once.

    torch counts the cores that this process may run on, of which a limit of time hides none: threads beyond
    it would wait for each other in every product. What the user has set stays. Worker processes inherit the
    variable.
    """
    cores = allowed_cores()
    if cores is not None and math.ceil(cores) < len(os.sched_getaffinity(0)):
        os.environ.setdefault("OMP_NUM_THREADS", str(math.ceil(cores)))

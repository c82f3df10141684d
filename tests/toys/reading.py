"""What a run left, for comparisons."""

from __future__ import annotations

import csv


def rows_of(run, *, drop="_seconds"):
    """The rows of `trials.csv` without what differs between runs.

    These are the seconds, and the steps that a run trained itself: one that lost its state trains them anew.
    """
    with (run / "trials.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    return [
        {name: value for name, value in row.items() if not name.endswith((drop, "trained_steps"))}
        for row in rows
    ]

"""The losses of trainings that are under way or ended, read from `curves/`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple


class LossCurve(NamedTuple):
    """The points of a training of `n_steps` as `read_points` returns them; `words` describe its plan."""

    words: str
    n_steps: int
    points: Sequence[dict[str, Any]]


def read_points(path: Path) -> list[dict[str, Any]]:
    """Read the points of a training in the order of their steps; none if the file is missing.

    Of steps that a resumed run took again, the later line counts. A line that is being written, or that a
    full disk has cut off, is left out.
    """
    points: dict[int, dict[str, Any]] = {}
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    for line in text.splitlines():
        with suppress(json.JSONDecodeError):
            point = json.loads(line)
            points[point["step"]] = point
    return [points[step] for step in sorted(points)]

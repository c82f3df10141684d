"""The losses of trainings that are under way or ended: read from `curves/`, drawn as inline SVG."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from markupsafe import Markup

from autopeft.report.formatting import render
from autopeft.types import shortened

_WIDTH, _HEIGHT, _EDGE, _LEFT = 400.0, 150.0, 16.0, 50.0  # units of the picture, without the lines of text
_LINE = 16.0  # units between two lines of text, of which a curve has two
_MOST_POINTS = 200  # of a curve in the chart; heuristic
_N_COLORS = 5  # of the style sheet
_WORDS = 60  # characters of a plan's name


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


def curves_chart(curves: Sequence[LossCurve]) -> Markup | None:
    """Draw the losses of trainings by step, with the last point of each in words; None without a point.

    A loss above twice the median is drawn at the upper edge.
    """
    curves = [curve for curve in curves if curve.points][-_N_COLORS:]
    if not curves:
        return None
    losses = sorted(point["loss"] for curve in curves for point in curve.points)
    low, high = losses[0], min(losses[-1], 2 * losses[len(losses) // 2])
    top, most_steps = 2 * _LINE * len(curves) + 12, max(curve.n_steps for curve in curves)

    def place(point: dict[str, Any]) -> str:
        x = _LEFT + (_WIDTH - _EDGE - _LEFT) * point["step"] / most_steps
        y = top + _HEIGHT * (1 - (min(point["loss"], high) - low) / (high - low or 1.0))
        return f"{x:.1f} {y:.1f}"

    def path(points: Sequence[dict[str, Any]]) -> str:
        some = [*points[:: 1 + len(points) // _MOST_POINTS], points[-1]]
        return "M" + "L".join(map(place, some))

    return Markup(
        render(
            "losses.svg",
            width=_WIDTH,
            left=_LEFT,
            top=top,
            bottom=top + _HEIGHT,
            most_steps=most_steps,
            ticks=[(top + _HEIGHT, f"{low:.3g}"), (top, f"{high:.3g}")],
            curves=[
                (_LINE * (2 * n - 1) - 4, n, shortened(words, _WORDS), n_steps, points[-1], path(points))
                for n, (words, n_steps, points) in enumerate(curves, start=1)
            ],
        )
    )

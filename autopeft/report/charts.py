"""Charts as inline SVG, in the colors and font of the page: difference, trials, training losses."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from contextlib import suppress
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

from autopeft.report.formatting import difference, interval, render, within_share
from autopeft.types import Verdict, minus, shortened

# Units of the picture, heuristic: as narrow as the text allows on a phone.
_WIDTH, _EDGE = 400.0, 16.0
_TOP, _BOTTOM, _LEFT = 28.0, 126.0, 50.0  # of the axes of the trials
_N_COLORS = 5  # of the style sheet; of methods, the last is for all others
_CURVES_HEIGHT = 150.0  # without the lines of text
_LINE = 16.0  # between two lines of text, of which a curve has two
_MOST_POINTS = 200  # of a curve; heuristic
_WORDS = 60  # characters of a plan's name


def difference_chart(verdict: Verdict, *, is_share: bool) -> str | None:
    """Draw the difference from the default, its interval and margin; None without a challenger."""
    if verdict.interval_95 is None or verdict.mean_difference is None:
        return None
    low, high = map(within_share, verdict.interval_95) if is_share else verdict.interval_95
    reach, unit = 1.4 * max(abs(low), abs(high), verdict.margin) or 1.0, 100 if is_share else 1

    def pixel(value: float) -> float:
        return _WIDTH / 2 + (_WIDTH / 2 - _EDGE) * value / reach

    ticks = [
        (pixel(value), minus(f"{unit * value:+.4g}") if value else "0") for value in _round_values(reach)
    ]
    mean = difference(verdict.mean_difference, is_share)
    return render(
        "difference.svg",
        label=f"Other plan minus default: {mean}, 95 % interval {interval(low, high, is_share)}",
        axis_label="difference in points" if is_share else "difference, plus is better",
        mean=mean,
        start=_EDGE,
        end=_WIDTH - _EDGE,
        width=_WIDTH,
        ticks=ticks,
        middle=pixel(verdict.mean_difference),
        interval=(pixel(low), pixel(high)),
        margin=(pixel(-verdict.margin), pixel(verdict.margin)),
    )


class TrialMark(NamedTuple):
    """A trial of the study in its chart; `words` describe its plan."""

    words: str
    method: str
    is_listed: bool
    loss: float


def trials_chart(trials: Sequence[TrialMark]) -> str | None:
    """Draw the loss of each trial and the lowest so far; None for a single trial."""
    if len(trials) < 2:
        return None
    low, high = _loss_range([trial.loss for trial in trials])

    def x(index: int) -> float:
        return _LEFT + (_WIDTH - _EDGE - _LEFT) * (index + 0.5) / len(trials)

    def y(loss: float) -> float:
        return _BOTTOM - 10 - (_BOTTOM - _TOP - 20) * (min(loss, high) - low) / (high - low or 1.0)

    lowest = [y(loss) for loss in accumulate((trial.loss for trial in trials), min)]
    path = f"M{x(0):.1f} {lowest[0]:.1f}" + "".join(
        f"H{x(index):.1f}V{height:.1f}" for index, height in enumerate(lowest[1:], start=1)
    )
    methods = list(dict.fromkeys(trial.method for trial in trials))
    if len(methods) > _N_COLORS:
        methods = [*methods[: _N_COLORS - 1], "others"]
    colors = {method: color for color, method in enumerate(methods, start=1)}
    return render(
        "trials.svg",
        width=_WIDTH,
        height=_BOTTOM + 26,
        left=_LEFT,
        top=_TOP - 8,
        bottom=_BOTTOM,
        colors=colors,
        marks=[
            (x(n), y(trial.loss), colors.get(trial.method, _N_COLORS), trial)
            for n, trial in enumerate(trials)
        ],
        lowest=path,
        ticks=[(y(loss), f"{loss:.3g}") for loss in (low, high)],
    )


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


def curves_chart(curves: Sequence[LossCurve]) -> str | None:
    """Draw the losses of trainings by step, with the last point of each in words; None without a point."""
    curves = [curve for curve in curves if curve.points][-_N_COLORS:]
    if not curves:
        return None
    low, high = _loss_range([point["loss"] for curve in curves for point in curve.points])
    top, most_steps = 2 * _LINE * len(curves) + 12, max(curve.n_steps for curve in curves)

    def place(point: dict[str, Any]) -> str:
        x = _LEFT + (_WIDTH - _EDGE - _LEFT) * point["step"] / most_steps
        y = top + _CURVES_HEIGHT * (1 - (min(point["loss"], high) - low) / (high - low or 1.0))
        return f"{x:.1f} {y:.1f}"

    def path(points: Sequence[dict[str, Any]]) -> str:
        some = [*points[:: 1 + len(points) // _MOST_POINTS], points[-1]]
        return "M" + "L".join(map(place, some))

    return render(
        "losses.svg",
        width=_WIDTH,
        left=_LEFT,
        top=top,
        bottom=top + _CURVES_HEIGHT,
        most_steps=most_steps,
        ticks=[(top + _CURVES_HEIGHT, f"{low:.3g}"), (top, f"{high:.3g}")],
        curves=[
            (_LINE * (2 * n - 1) - 4, n, shortened(words, _WORDS), n_steps, points[-1], path(points))
            for n, (words, n_steps, points) in enumerate(curves, start=1)
        ],
    )


def _loss_range(losses: Sequence[float]) -> tuple[float, float]:
    """Return the ends of an axis; losses above twice the median are drawn at its edge.

    Runs that learn nothing would flatten the others.
    """
    ordered = sorted(losses)
    return ordered[0], min(ordered[-1], 2 * ordered[len(ordered) // 2])


def _round_values(reach: float) -> list[float]:
    """List round values from -reach to reach, at most seven."""
    least = reach / 3
    power_of_ten = 10.0 ** math.floor(math.log10(least))
    step = next(n * power_of_ten for n in (1, 2, 5, 10) if n * power_of_ten >= least)
    most = math.floor(reach / step)
    return [round(n * step, 12) for n in range(-most, most + 1)]

"""Charts as inline SVG, in the colors and font of the page: the difference from the default, the trials."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

from markupsafe import Markup

from autopeft.report.formatting import difference, interval, render, within_share
from autopeft.types import Verdict, minus

# Units of the picture, heuristic: as narrow as the text allows on a phone.
_WIDTH, _EDGE = 400.0, 16.0
_TOP, _BOTTOM, _LEFT = 28.0, 126.0, 50.0  # of the axes of the trials
_N_COLORS = 5  # of methods, the last for all others; the style sheet has them


def difference_chart(verdict: Verdict, *, is_share: bool) -> Markup | None:
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
    return Markup(
        render(
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
    )


class TrialMark(NamedTuple):
    """A trial of the study in its chart; `words` describe its plan."""

    words: str
    method: str
    is_listed: bool
    loss: float


def trials_chart(trials: Sequence[TrialMark]) -> Markup | None:
    """Draw the losses of short runs in the order of the trials, with the lowest so far; None for one trial.

    A loss above twice the median is drawn at the upper edge: runs that learn nothing would flatten the rest.
    """
    if len(trials) < 2:
        return None
    losses = sorted(trial.loss for trial in trials)
    low, high = losses[0], min(losses[-1], 2 * losses[len(losses) // 2])

    def x(index: int) -> float:
        return _LEFT + (_WIDTH - _EDGE - _LEFT) * (index + 0.5) / len(trials)

    def y(loss: float) -> float:
        height = (min(loss, high) - low) / (high - low or 1.0)
        return _BOTTOM - 10 - (_BOTTOM - _TOP - 20) * height

    lowest = [y(loss) for loss in accumulate((trial.loss for trial in trials), min)]
    path = f"M{x(0):.1f} {lowest[0]:.1f}" + "".join(
        f"H{x(index):.1f}V{height:.1f}" for index, height in enumerate(lowest[1:], start=1)
    )
    methods = list(dict.fromkeys(trial.method for trial in trials))
    if len(methods) > _N_COLORS:
        methods = [*methods[: _N_COLORS - 1], "others"]
    colors = {method: color for color, method in enumerate(methods, start=1)}
    column = (_WIDTH - _LEFT) / len(methods)
    return Markup(
        render(
            "trials.svg",
            width=_WIDTH,
            height=_BOTTOM + 26,
            left=_LEFT,
            top=_TOP - 8,
            bottom=_BOTTOM,
            methods=[(_LEFT + column * n, color, method) for n, (method, color) in enumerate(colors.items())],
            marks=[
                (x(n), y(trial.loss), colors.get(trial.method, _N_COLORS), trial)
                for n, trial in enumerate(trials)
            ],
            lowest=path,
            ticks=[(y(loss), f"{loss:.3g}") for loss in (low, high)],
        )
    )


def _round_values(reach: float) -> list[float]:
    """List round values from -reach to reach, at most seven."""
    least = reach / 3
    power_of_ten = 10.0 ** math.floor(math.log10(least))
    step = next(n * power_of_ten for n in (1, 2, 5, 10) if n * power_of_ten >= least)
    most = math.floor(reach / step)
    return [round(n * step, 12) for n in range(-most, most + 1)]

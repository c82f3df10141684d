"""The difference from the default as inline SVG, in the colors and the font of the page."""

from __future__ import annotations

import math

from markupsafe import Markup

from autopeft.report.formatting import difference, interval, render, within_share
from autopeft.types import Verdict, minus

# Units of the picture, heuristic: as narrow as the text allows on a phone.
_WIDTH, _EDGE = 400.0, 16.0


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
            label=f"Challenger minus default: {mean}, 95 % interval {interval(low, high, is_share)}",
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


def _round_values(reach: float) -> list[float]:
    """List round values from -reach to reach, at most seven."""
    least = reach / 3
    power_of_ten = 10.0 ** math.floor(math.log10(least))
    step = next(n * power_of_ten for n in (1, 2, 5, 10) if n * power_of_ten >= least)
    most = math.floor(reach / step)
    return [round(n * step, 12) for n in range(-most, most + 1)]

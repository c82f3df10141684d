"""The charts of the report as inline SVG, in the colors and the font of the page."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from markupsafe import Markup

from autopeft.report.formatting import (
    count,
    difference,
    interval,
    metric,
    render,
    within_share,
)
from autopeft.report.plan_names import Group
from autopeft.report.table_rows import RunRow
from autopeft.types import Verdict, minus

# Sizes in units of the picture, heuristic: as narrow as the text allows on a phone.
_WIDTH, _HEIGHT = 400.0, 270.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 54.0, 16.0, 24.0, 46.0
_NAME_GAP = 14.0  # between the names of two points
# The outline of the points of each group, by the number of its color, around the origin.
SHAPES = (
    "M-4.5-4.5H4.5V4.5H-4.5z",
    "M-5-4H5L0 5z",
    "M-5 0A5 5 0 1 1 5 0 5 5 0 1 1-5 0z",
    "M0-6 6 0 0 6-6 0z",
    "M-5 4H5L0-5z",
    "M0-5.5 5.2-1.7 3.2 4.5H-3.2L-5.2-1.7z",
    "M-1.8-5.5H1.8V-1.8H5.5V1.8H1.8V5.5H-1.8V1.8H-5.5V-1.8H-1.8z",
    "M0-6 1.4-1.9H5.7L2.3.7 3.5 4.9 0 2.3-3.5 4.9-2.3.7-5.7-1.9H-1.4z",
    "M-5-3-3-5 0-2 3-5 5-3 2 0 5 3 3 5 0 2-3 5-5 3-2 0z",
)


@dataclass(frozen=True, kw_only=True)
class Axis:
    """Values from `low` to `high` along the pixels from `start` to `end`."""

    label: str
    low: float
    high: float
    start: float
    end: float
    words: Callable[[float], str]
    is_log: bool = False

    def at(self, value: float) -> float:
        """Return the pixel of a value."""
        scale = math.log if self.is_log else float
        low, high = scale(self.low), scale(self.high)
        return self.start + (self.end - self.start) * (scale(value) - low) / (high - low)

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """List pixel and text of each tick, at round values."""
        low, high = self.low, self.high
        if self.is_log:
            steps = (1, 2, 5) if high < 100 * low else (1, 3) if high < 2000 * low else (1,)
            powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
            values = [step * 10.0**power for power in powers for step in steps]
        else:
            least = (high - low) / 6
            power_of_ten = 10.0 ** math.floor(math.log10(least))
            step = next(n * power_of_ten for n in (1, 2, 5, 10) if n * power_of_ten >= least)
            values = [round(n * step, 12) for n in range(math.ceil(low / step), math.floor(high / step) + 1)]
        return [(self.at(value), self.words(value)) for value in values if low <= value <= high]


@dataclass(frozen=True, kw_only=True)
class Point:
    """A marker at a pixel, with a tooltip and a name next to it."""

    x: float
    y: float
    group: Group
    title: str
    name: str = ""
    name_y: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Chart:
    """One chart; `label` describes it, `budget` is the pixel of the line at the budget.

    `n_above` points lie above the upper edge and are drawn at it.
    """

    label: str
    x: Axis
    y: Axis
    points: tuple[Point, ...]
    budget: float
    n_above: int

    def svg(self) -> Markup:
        """Draw the chart as an `<svg>` element."""
        return Markup(render("chart.svg", chart=self, width=_WIDTH, height=_HEIGHT, shapes=SHAPES))


def short_run_chart(rows: Sequence[RunRow], *, budget: int, steps: int) -> Chart | None:
    """Draw the loss of each short run by parameters; None if fewer than two runs have adapters."""
    runs = [(row, row.run.loss) for row in rows if row.run.plan.adapters and row.run.loss is not None]
    if len(runs) < 2:
        return None
    losses = [loss for _, loss in runs]
    x = _parameter_axis([*(row.run.plan.trainable_params for row, _ in runs), budget])
    y = _loss_axis(losses, steps=steps)
    points = [
        Point(
            x=x.at(row.run.plan.trainable_params),
            y=y.at(min(loss, y.high)),
            group=row.group,
            title=f"{row.group.label}: loss {metric(loss, False)}, "
            f"{count(row.run.plan.trainable_params)} parameters",
            name=row.mark,
        )
        for row, loss in runs
    ]
    return Chart(
        label="Loss of the short runs by adapter parameters",
        x=x,
        y=y,
        points=_with_places(points),
        budget=x.at(budget),
        n_above=sum(loss > y.high for loss in losses),
    )


def difference_chart(verdict: Verdict, *, is_share: bool) -> Markup | None:
    """Draw the difference from the default, its interval and margin; None without a challenger."""
    if verdict.interval_95 is None or verdict.mean_difference is None:
        return None
    low, high = map(within_share, verdict.interval_95) if is_share else verdict.interval_95
    reach, scale = 1.4 * max(abs(low), abs(high), verdict.margin) or 1.0, 100 if is_share else 1
    x = Axis(
        label="difference in points" if is_share else "difference, plus is better",
        low=-reach,
        high=reach,
        start=_RIGHT,
        end=_WIDTH - _RIGHT,
        words=lambda value: _short(scale * value, sign="+"),
    )
    mean = difference(verdict.mean_difference, is_share)
    return Markup(
        render(
            "difference.svg",
            label=f"Challenger minus default: {mean}, 95 % interval {interval(low, high, is_share)}",
            mean=mean,
            x=x,
            middle=x.at(verdict.mean_difference),
            interval=(x.at(low), x.at(high)),
            margin=(x.at(-verdict.margin), x.at(verdict.margin)),
            width=_WIDTH,
        )
    )


def _parameter_axis(values: Sequence[float]) -> Axis:
    """Make a logarithmic axis around the values, at least a decade wide."""
    low, high = min(values), max(values)
    center, reach = (low * high) ** 0.5, max(10**0.5, (high / low) ** 0.5 * 1.5)
    return Axis(
        label="adapter parameters",
        low=center / reach,
        high=center * reach,
        start=_LEFT,
        end=_WIDTH - _RIGHT,
        words=_parameters,
        is_log=True,
    )


def _loss_axis(losses: Sequence[float], *, steps: int) -> Axis:
    """Make an axis that a few very high losses do not flatten, by the range of the lower three quarters."""
    ordered = sorted(losses)
    low, quartile, high = ordered[0], ordered[3 * (len(ordered) - 1) // 4], ordered[-1]
    if low < quartile:
        high = max(loss for loss in ordered if loss <= low + 3 * (quartile - low))
    margin = 0.08 * (high - low) or 0.05 * abs(high) or 1.0
    return Axis(
        label=f"loss after {steps:,} steps",
        low=low - margin,
        high=high + margin,
        start=_HEIGHT - _BOTTOM,
        end=_TOP,
        words=_short,
    )


def _short(value: float, *, sign: str = "") -> str:
    return minus(f"{value:{sign}.4g}") if value else "0"


def _parameters(value: float) -> str:
    """Format a number of parameters for a tick.

    Example:
        >>> _parameters(20_000), _parameters(1_500_000), _parameters(800)
        ('20 k', '1.5 M', '800')
    """
    for size, unit in ((1e9, " B"), (1e6, " M"), (1e3, " k")):
        if value >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"


def _with_places(points: Sequence[Point]) -> tuple[Point, ...]:
    """Place the names of points from the bottom up, so that none overlaps the name below it."""
    heights, highest = dict[Point, float](), math.inf
    for point in sorted(points, key=lambda point: -point.y):
        if point.name:
            highest = heights[point] = min(point.y, highest - _NAME_GAP)
    return tuple(replace(point, name_y=heights.get(point, 0.0)) for point in points)

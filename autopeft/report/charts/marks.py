"""What several charts draw: points of a group of plans, names beside points, numbers on axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, ScalarFormatter

from autopeft.records import minus, rate
from autopeft.report.charts.canvas import CARD, INK, SOFT, Sheet, group_colour, spread
from autopeft.report.naming import Group
from autopeft.report.words import significant

_NAME_HEIGHT = 14.0  # pixels between names, chosen by hand for the font size of `canvas`
_BESIDE = 11.0  # pixels between a point and its name
_MOVED = 4.0  # pixels beyond which a name no longer stands at its point; chosen by hand
# From here on a loss is cut, in ranges of three quarters of the losses beyond those; chosen by hand.
_FAR = 3.0
_SIZES = {"P": 8.5, "*": 11.0, "^": 8.5, "v": 8.5, "p": 8.5}  # markers that look small beside a square


def point(
    drawn: Sheet, x: float, y: float, *, group: Group, gid: str, filled: float = 1.0, **style: Any
) -> None:
    """One plan: colour and marker of its group, filled to a share; 0 is hollow, in the card's colour."""
    colour = group_colour(group.colour)
    drawn.groups.add(group)
    drawn.axes.plot(
        [x],
        [y],
        marker=group.marker,
        markersize=style.pop("size", 1.0) * _SIZES.get(group.marker, 7.0),
        markerfacecolor=to_rgba(colour, filled) if filled else CARD,
        markeredgecolor=colour,
        markeredgewidth=1.4,
        gid=gid,
        linestyle="none",
        **{"zorder": 4.0, "clip_on": False, **style},
    )


def name_points(drawn: Sheet, points: Sequence[tuple[float, float, str]]) -> None:
    """Write names beside points (x, y, name), towards the middle of the chart."""
    axes = drawn.axes
    drawn.figure.draw_without_rendering()  # settles the limits
    box = axes.get_window_extent()
    middle = (box.x0 + box.x1) / 2
    places = [axes.transData.transform((x, y)) for x, y, _ in points]
    on_right = [float(place[0]) > middle for place in places]
    heights = [float(place[1]) for place in places]
    ends = [
        float(place[0]) + (-1 if is_right else 1) * (_BESIDE + _width_of(drawn, name))
        for place, is_right, (_, _, name) in zip(places, on_right, points, strict=True)
    ]
    rights = [end for end, is_right in zip(ends, on_right, strict=True) if is_right]
    lefts = [end for end, is_right in zip(ends, on_right, strict=True) if not is_right]
    do_meet = lefts and rights and max(lefts) > min(rights)  # in the middle of the chart
    indices = range(len(points))
    columns = (
        [indices] if do_meet else [[i for i in indices if on_right[i] == side] for side in (False, True)]
    )
    for column in columns:
        for i, placed in zip(column, spread([heights[i] for i in column], gap=_NAME_HEIGHT), strict=True):
            moved = placed - heights[i]
            _write_beside(drawn, points[i], moved=moved, to_the_left=on_right[i], raised=9)


def _width_of(drawn: Sheet, name: str) -> float:
    """The width of a name in pixels."""
    text = drawn.axes.text(0, 0, name)
    width = float(text.get_window_extent().width)
    text.remove()
    return width


def name_beside(drawn: Sheet, points: Sequence[tuple[float, float, str]]) -> None:
    """Write names to the right of points (x, y, name), moved up and down where they would meet."""
    drawn.figure.draw_without_rendering()
    heights = [float(drawn.axes.transData.transform((x, y))[1]) for x, y, _ in points]
    for point, height, placed in zip(points, heights, spread(heights, gap=_NAME_HEIGHT), strict=True):
        _write_beside(drawn, point, moved=placed - height)


def _write_beside(
    drawn: Sheet,
    point: tuple[float, float, str],
    *,
    moved: float,
    to_the_left: bool = False,
    raised: float = 0.0,
) -> None:
    """Write one name beside its point, `moved` up by so many pixels.

    A thin line joins a name that was moved to its point, as the name may lie beside another one. `raised`
    lifts the name by so many pixels more, off a line that leaves the point.
    """
    x, y, name = point
    side = 1.0 if to_the_left else 0.0  # of the name, at which the line ends
    leader = {"arrowstyle": "-", "color": SOFT, "linewidth": 0.7, "relpos": (side, 0.5), "shrinkA": 1}
    drawn.axes.annotate(
        name,
        (x, y),
        xytext=(-_BESIDE if to_the_left else _BESIDE, moved + raised),
        textcoords="offset pixels",
        ha="right" if to_the_left else "left",
        va="center",
        color=INK,
        zorder=5,
        arrowprops=leader if abs(moved) > _MOVED else None,
    )


def metric_axis(axes: Axes, name: str, *, is_share: bool) -> None:
    """Numbers of the y axis, in percent for a share, which is none below 0 and above 100; and its name."""
    if is_share:
        axes.yaxis.set_major_formatter(
            FuncFormatter(lambda value, _: f"{100 * value:g}" if -1e-9 < value < 1 + 1e-9 else "")
        )
    else:
        axes.yaxis.set_major_formatter(_plain_numbers())
    axes.set_ylabel(f"{name}, %" if is_share else name)


def within_shares(axes: Axes) -> None:
    """End the y axis at 0 and 100 %, beyond which no share lies; to be called when all is drawn."""
    low, high = axes.get_ylim()
    highest = axes.dataLim.y1  # above 1 only in a run whose metric is no share after all
    axes.set_ylim(max(low, 0.0), min(high, max(highest, 1.0)))


@FuncFormatter
def parameters(value: float, _: int | None) -> str:
    """A number of parameters on an axis: `800`, `20 k`, `1.5 M`.

    Example:
        >>> parameters(20_000, 0), parameters(1_500_000, 0), parameters(800, 0)
        ('20 k', '1.5 M', '800')
    """
    for size, unit in ((1e9, " B"), (1e6, " M"), (1e3, " k")):
        if value >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"


@FuncFormatter
def rates(value: float, _: int | None) -> str:
    """A learning rate on an axis."""
    return minus(rate(value))


def most_shown(losses: Sequence[float]) -> float:
    """The largest loss that an axis goes up to: a few that lie far above would flatten all others.

    Far is meant by factors, as losses of one run may differ by several.

    Example:
        >>> most_shown([1.0, 1.1, 1.2, 9.0]), most_shown([1.0, 2.0, 4.0, 8.0])
        (1.2, 8.0)
    """
    ordered = sorted(losses)
    low, quartile = ordered[0], ordered[3 * (len(ordered) - 1) // 4]
    if low <= 0 or quartile == low:
        return ordered[-1]
    return max(loss for loss in ordered if loss <= quartile * (quartile / low) ** _FAR)


def cut_above(axes: Axes, losses: Sequence[float]) -> list[float]:
    """The heights at which losses are drawn, once the axis has its limits: none above its upper edge.

    What is cut is told above the chart.
    """
    edge = axes.get_ylim()[1]
    if beyond := sorted(loss for loss in losses if loss > edge):
        several = f"{len(beyond)} losses of {significant(beyond[0])} to {significant(beyond[-1])}"
        words = f"a loss of {significant(beyond[0])}" if len(beyond) == 1 else several
        axes.set_title(f"at the upper edge: {words}", loc="left", fontsize="medium", color=SOFT)
    return [min(loss, edge) for loss in losses]


def loss_axis(axes: Axes, losses: Sequence[float]) -> None:
    """The y axis of losses; logarithmic where the largest is more than six times the smallest.

    It ends at `most_shown`.
    """
    axes.set_ylabel("loss (search split)")
    low, high = min(losses), most_shown(losses)
    if low > 0 and high > 6 * low:
        axes.set_yscale("log")
        axes.set_ylim(low / 1.15, high * 1.15)
        steps = (1.0, 2.0, 3.0, 5.0, 7.0) if high < 20 * low else (1.0, 2.0, 5.0)
        axes.yaxis.set_major_locator(LogLocator(subs=steps if high < 2000 * low else (1.0,), numticks=12))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: significant(value)))
        axes.yaxis.set_minor_formatter(NullFormatter())
        return
    margin = 0.08 * (high - low) or 0.05 * math.fabs(high) or 1.0
    axes.set_ylim(low - margin, high + margin)
    axes.yaxis.set_major_formatter(_plain_numbers())


def _plain_numbers() -> ScalarFormatter:
    """Numbers of a linear axis as they are, without a factor or an addend at its end."""
    formatter = ScalarFormatter(useOffset=False)
    formatter.set_scientific(False)
    return formatter

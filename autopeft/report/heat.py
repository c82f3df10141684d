"""A heat map of the sensitivity as SVG, and whether enough examples were seen for it.

The picture has one panel per score and no script. It follows the reader's light or dark setting and paints
its own background, so that it can be read anywhere.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from autopeft.records import Site, SiteScores
from autopeft.report.maps import Map, score_map
from autopeft.report.rendering import render
from autopeft.report.words import minus

# Colours of a shade and of the text on it, from little to much; equal to those of the report's page.
LIGHT = (
    ("#e4eff9", "#10233a"),
    ("#bcd7f0", "#10233a"),
    ("#86b6e2", "#10233a"),
    ("#2f74b5", "#ffffff"),
    ("#0f4178", "#ffffff"),
)
DARK = (
    ("#1b2f45", "#f0f6fc"),
    ("#234a70", "#f0f6fc"),
    ("#2d6499", "#f0f6fc"),
    ("#7db4e6", "#0b1b2c"),
    ("#c3e0fa", "#0b1b2c"),
)
# Sizes in pixels, chosen by hand.
_ROW, _GAP, _LABEL, _MARGIN, _HEAD, _FOOT = 22, 3, 62, 24, 52, 58
_MIN_CELL, _MAX_CELL, _LETTER = 46, 92, 7
_WIDEST = 1180  # a panel that would reach further starts a new line
_MIN_WIDTH = 660  # what the legend needs
SEEN_ENOUGH = 0.95  # rank correlation of two halves of the examples above which more examples change little


def heat_svg(sites: Sequence[Site], scores: Sequence[SiteScores], *, title: str) -> str:
    """The scores as panels of layer × role, the deepest layer on top, the sites' values in tooltips.

    Args:
        sites: All sites; a site of kind `model` is not drawn.
        scores: Values in the order of the sites; a score that is 0 everywhere is named, not drawn.
        title: What was scored, such as the base model and the data.
    """
    maps = {score.name: score_map(sites, score) for score in scores}
    panels = _arrange([drawn for drawn in maps.values() if drawn is not None])
    widths = [panel.x + panel.width + _MARGIN for panel in panels]
    return render(
        "heat.svg",
        title=title,
        panels=panels,
        empty=[name for name, drawn in maps.items() if drawn is None],
        width=max([*widths, 2 * _MARGIN + 8 * len(title), _MIN_WIDTH]),
        height=max([_HEAD, *(panel.y + panel.height for panel in panels)]) + _FOOT,
        margin=_MARGIN,
        row=_ROW,
        light=LIGHT,
        dark=DARK,
    )


def seen_enough(score: SiteScores) -> str:
    """Whether more examples would change a score, by how far two halves of the examples agree.

    Example:
        >>> seen_enough(SiteScores(name="fisher", values=(1.0,), split_half=0.972, n_examples=128))
        'seen enough: 0.97 between two halves of 128 examples'
    """
    if not score.n_examples:
        return "needs no examples"
    halves = f"between two halves of {score.n_examples:,} examples"
    if score.split_half is None or not math.isfinite(score.split_half):
        return f"agreement {halves} not known"
    rounded_down = minus(f"{math.floor(100 * score.split_half) / 100:.2f}")  # 0.949 must not read as 0.95
    enough = "seen enough" if score.split_half >= SEEN_ENOUGH else "not enough"
    return f"{enough}: {rounded_down} {halves}"


@dataclass(frozen=True, kw_only=True)
class _Panel:
    """The map of one score, and the place of its upper left corner, in pixels."""

    map: Map
    x: int
    y: int

    @property
    def cell(self) -> int:
        """Width of a cell: that of the longest role, within bounds."""
        return min(_MAX_CELL, max(_MIN_CELL, _LETTER * max(map(len, self.map.roles), default=0) + 10))

    @property
    def roles(self) -> list[str]:
        """The roles, cut to the width of a cell."""
        most = self.cell // _LETTER
        return [role if len(role) <= most else role[: most - 1] + "…" for role in self.map.roles]

    @property
    def width(self) -> int:
        return self.left(len(self.map.roles))

    @property
    def height(self) -> int:
        return self.top(len(self.map.rows))

    def left(self, column: int) -> int:
        """Where a column begins."""
        return _LABEL + column * (self.cell + _GAP)

    def top(self, row: int) -> int:
        """Where a row begins."""
        return _HEAD + row * (_ROW + _GAP)


def _arrange(maps: Sequence[Map]) -> list[_Panel]:
    """A panel for each map, side by side as far as they fit."""
    panels: list[_Panel] = []
    x, y = _MARGIN, _HEAD
    for drawn in maps:
        panel = _Panel(map=drawn, x=x, y=y)
        if x > _MARGIN and x + panel.width > _WIDEST:
            below = max(above.y + above.height for above in panels) + 22
            panel = replace(panel, x=_MARGIN, y=below)
        panels.append(panel)
        x, y = panel.x + panel.width + 30, panel.y
    return panels

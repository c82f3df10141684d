"""A heat map of the sensitivity as SVG, and whether enough examples were seen for it.

The picture has no script, follows the reader's light or dark setting, and paints its own background.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from autopeft.records import SEEN_ENOUGH, Site, SiteScores, minus, shortened
from autopeft.report.maps import Map, score_map
from autopeft.report.rendering import render

# Colours of a shade and of the text on it, from little to much; equal to those of the report's page.
# What lies beyond the scale has the last shade and a dashed edge.
LIGHT = tuple(
    zip("#e4eff9 #bcd7f0 #86b6e2 #2f74b5 #0f4178".split(), 3 * ["#10233a"] + 2 * ["#ffffff"], strict=True)
)
DARK = tuple(
    zip("#1b2f45 #234a70 #2d6499 #7db4e6 #c3e0fa".split(), 3 * ["#f0f6fc"] + 2 * ["#0b1b2c"], strict=True)
)
# Sizes in pixels, chosen by hand.
_ROW, _GAP, _LABEL, _MARGIN, _HEAD, _FOOT = 22, 3, 62, 24, 52, 58
_MIN_CELL, _MAX_CELL, _LETTER = 46, 92, 7
_WIDEST = 1180  # a panel that would reach further starts a new line
_MIN_WIDTH = 660  # what the legend needs


def heat_svg(sites: Sequence[Site], scores: Sequence[SiteScores], *, title: str) -> str:
    """One panel of layer × role per score, the deepest layer on top, the sites' values in tooltips.

    A site of kind `model` is not drawn; a score that is 0 everywhere is named, not drawn. The title says what
    was scored, such as the base model and the data.
    """
    maps = {score.name: score_map(sites, score) for score in scores}
    panels = _arrange([drawn for drawn in maps.values() if drawn is not None])
    return render(
        "heat.svg",
        title=title,
        panels=panels,
        empty=[name for name, drawn in maps.items() if drawn is None],
        width=max([*(p.right + _MARGIN for p in panels), 2 * _MARGIN + 8 * len(title), _MIN_WIDTH]),
        height=max([_HEAD, *(panel.bottom for panel in panels)]) + _FOOT,
        margin=_MARGIN,
        row=_ROW,
        light=LIGHT,
        dark=DARK,
    )


def seen_enough(score: SiteScores) -> str:
    """Whether more examples would change a score, by how far two halves of the examples agree.

    Example:
        >>> seen_enough(SiteScores(name="fisher", values=(1.0,), split_half=0.972, n_examples=128))
        'seen enough: rank correlation 0.97 between two halves of 128 examples'
    """
    if not score.n_examples:
        return "needs no examples"
    halves = f"between two halves of {score.n_examples:,} examples"
    if score.split_half is None or not math.isfinite(score.split_half):
        return f"agreement {halves} not known"
    rounded_down = minus(f"{math.floor(100 * score.split_half) / 100:.2f}")  # 0.949 must not read as 0.95
    enough = "seen enough" if score.split_half >= SEEN_ENOUGH else "not enough"
    return f"{enough}: rank correlation {rounded_down} {halves}"


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
        return [shortened(role, most) for role in self.map.roles]

    def left(self, column: int) -> int:
        """Where a column begins, within the panel."""
        return _LABEL + column * (self.cell + _GAP)

    def top(self, row: int) -> int:
        """Where a row begins, within the panel."""
        return _HEAD + row * (_ROW + _GAP)

    @property
    def right(self) -> int:
        return self.x + self.left(len(self.map.roles))

    @property
    def bottom(self) -> int:
        return self.y + self.top(len(self.map.rows))


def _arrange(maps: Sequence[Map]) -> list[_Panel]:
    """A panel for each map, side by side as far as they fit."""
    panels: list[_Panel] = []
    x, y = _MARGIN, _HEAD
    for drawn in maps:
        panel = _Panel(map=drawn, x=x, y=y)
        if x > _MARGIN and panel.right > _WIDEST:
            panel = replace(panel, x=_MARGIN, y=max(above.bottom for above in panels) + 22)
        panels.append(panel)
        x, y = panel.right + 30, panel.y
    return panels

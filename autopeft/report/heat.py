"""A heat map of the sensitivity as SVG, and whether enough examples were seen for it.

The picture has one panel per score and no script. It follows the reader's light or dark setting and paints
its own background, so that it can be read anywhere.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from xml.sax.saxutils import escape

from autopeft.records import Site, SiteScores
from autopeft.report.maps import N_LEVELS, Cell, Map, score_map
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
_LIGHT_PAGE = {"page": "#fbfbf9", "ink": "#1b2128", "soft": "#59636f", "line": "#dfe3e6"}
_DARK_PAGE = {"page": "#13161a", "ink": "#e7eaee", "soft": "#a0abb7", "line": "#2e353d"}
# Sizes in pixels, chosen by hand.
_ROW, _GAP, _LABEL, _MARGIN, _HEAD, _FOOT = 22, 3, 62, 24, 52, 34
_MIN_CELL, _MAX_CELL, _LETTER = 46, 92, 7
_WIDEST = 1180  # a panel that would reach further starts a new line
_MIN_WIDTH = 660  # of the legend
SEEN_ENOUGH = 0.95  # rank correlation of two halves of the examples above which more examples change little


def heat_svg(sites: Sequence[Site], scores: Sequence[SiteScores], *, title: str) -> str:
    """The scores as panels of layer × role, the deepest layer on top, the sites' values in tooltips.

    Args:
        sites: All sites; a site of kind `model` is not drawn.
        scores: Values in the order of the sites; a score that is 0 everywhere is named, not drawn.
        title: What was scored, such as the base model and the data.
    """
    maps = {score.name: score_map(sites, score) for score in scores}
    panels = [_Panel(drawn) for drawn in maps.values() if drawn is not None]
    empty = [name for name, drawn in maps.items() if drawn is None]
    places, width, height = _arrange(panels)
    width = max(width, 2 * _MARGIN + 8 * len(title), _MIN_WIDTH)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" role="img">',
        f"<title>{_text(title)}</title>",
        f"<style>{_style()}</style>",
        f'<rect class="page" width="{width}" height="{height}"/>',
        f'<text class="ink title" x="{_MARGIN}" y="30">{_text(title)}</text>',
    ]
    for panel, (x, y) in zip(panels, places, strict=True):
        parts.append(f'<g transform="translate({x} {y})">{panel.svg()}</g>')
    if empty:
        note = f"No gradient, or nothing but zeros: {', '.join(empty)}"
        parts.append(f'<text class="soft" x="{_MARGIN}" y="{height - 44}">{_text(note)}</text>')
    parts.append(_legend(y=height - 26))
    return "\n".join([*parts, "</svg>"]) + "\n"


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


class _Panel:
    """The map of one score, with its width and height in pixels."""

    def __init__(self, map_: Map) -> None:
        self.map = map_
        letters = max((len(role) for role in map_.roles), default=0)
        self.cell = min(_MAX_CELL, max(_MIN_CELL, _LETTER * letters + 10))
        self.width = _LABEL + len(map_.roles) * (self.cell + _GAP)
        self.height = _HEAD + len(map_.rows) * (_ROW + _GAP)

    def svg(self) -> str:
        total = f", {self.map.total:.3g}" if self.map.total is not None else ""
        parts = [
            f'<text class="ink name" x="0" y="14">{_text(self.map.name)} '
            f'<tspan class="soft plain">percent of its total{total}</tspan></text>'
        ]
        most = self.cell // _LETTER
        for column, role in enumerate(self.map.roles):
            shown = role if len(role) <= most else role[: most - 1] + "…"
            middle = self._x(column) + self.cell / 2
            parts.append(f'<text class="soft middle" x="{middle:g}" y="42">{_text(shown)}</text>')
        for row, (label, cells) in enumerate(self.map.rows):
            y = _HEAD + row * (_ROW + _GAP)
            parts.append(f'<text class="soft end" x="{_LABEL - 8}" y="{y + 15}">{_text(label)}</text>')
            parts += [self._cell(cell, self._x(column), y) for column, cell in enumerate(cells) if cell.text]
        return "\n".join(parts)

    def _x(self, column: int) -> int:
        return _LABEL + column * (self.cell + _GAP)

    def _cell(self, cell: Cell, x: int, y: int) -> str:
        return (
            f'<g><title>{_text(cell.title)}</title><rect class="l{cell.level}" x="{x}" y="{y}" '
            f'width="{self.cell}" height="{_ROW}" rx="3"/><text class="t{cell.level} middle" '
            f'x="{x + self.cell / 2:g}" y="{y + 15}">{_text(cell.text)}</text></g>'
        )


def _arrange(panels: Sequence[_Panel]) -> tuple[list[tuple[int, int]], int, int]:
    """The corner of each panel, side by side as far as they fit, and width and height of the picture."""
    places: list[tuple[int, int]] = []
    x, y, bottom, width = _MARGIN, 52, 52, 0
    for panel in panels:
        if x > _MARGIN and x + panel.width > _WIDEST:
            x, y = _MARGIN, bottom + 22
        places.append((x, y))
        bottom = max(bottom, y + panel.height)
        width = max(width, x + panel.width)
        x += panel.width + 30
    return places, width + _MARGIN, bottom + _FOOT + 24


def _legend(*, y: int) -> str:
    """The shades between two words, and what the rows are."""
    start, step = _MARGIN + 40, 29
    swatches = "".join(
        f'<rect class="l{index + 1}" x="{start + step * index}" y="{y}" width="26" height="12" rx="3"/>'
        for index in range(N_LEVELS)
    )
    after = start + step * N_LEVELS + 6
    return (
        f'<text class="soft" x="{_MARGIN}" y="{y + 10}">little</text>{swatches}'
        f'<text class="soft" x="{after}" y="{y + 10}">a layer\'s largest; each shade is twice '
        "the one before; the deepest layer is on top</text>"
    )


def _style() -> str:
    """Colours by class, with dark ones for readers whose device is set to dark."""
    fixed = (
        "text{font:12px ui-sans-serif,system-ui,'Segoe UI',Roboto,'Liberation Sans',Arial,sans-serif;"
        "font-variant-numeric:tabular-nums}"
        ".title{font-size:15px;font-weight:600}.name{font-weight:600;font-size:13px}"
        ".plain{font-weight:400;font-size:12px}.middle{text-anchor:middle}.end{text-anchor:end}"
    )
    light, dark = _colours(LIGHT, _LIGHT_PAGE), _colours(DARK, _DARK_PAGE)
    return f"{fixed}{light}@media (prefers-color-scheme:dark){{{dark}}}"


def _colours(shades: Sequence[tuple[str, str]], page: dict[str, str]) -> str:
    levels = "".join(
        f".l{level}{{fill:{shade}}}.t{level}{{fill:{ink}}}"
        for level, (shade, ink) in enumerate(shades, start=1)
    )
    named = "".join(f".{name}{{fill:{page[name]}}}" for name in ("page", "ink", "soft"))
    return f"{named}{levels}.l0{{fill:none;stroke:{page['line']}}}.t0{{fill:{page['soft']}}}"


def _text(text: str) -> str:
    """Text for XML: special characters escaped, unprintable ones replaced."""
    return escape("".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text))

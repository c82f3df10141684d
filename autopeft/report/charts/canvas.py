"""The sheet that every chart is drawn on: inline SVG in the page's colours and font, or a figure.

matplotlib writes fixed colours. The charts use stand-ins for the page's CSS variables. `Sheet.svg` replaces
them by the variables, so that one picture serves light and dark; `Sheet.picture` by the light colours. Equal
calls give equal bytes.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import matplotlib as mpl
import numpy as np
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.colors import to_hex, to_rgba, to_rgba_array
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from autopeft.report.naming import Group

# Stand-ins for colours: matplotlib's text -> CSS.
INK, SOFT, CARD, BAND = "#000001", "#000002", "#000003", "#000004"
_CSS = {
    INK: "currentColor",
    SOFT: "var(--soft)",
    CARD: "var(--card)",
    BAND: "var(--band)",
}
# The page's light colours, and those of the groups `--g0`, `--g1` and so on.
LIGHT_COLOURS = {INK: "#1b2128", SOFT: "#59636f", CARD: "#ffffff", BAND: "#cfe6d6"}
LIGHT_GROUPS = tuple("#1f5f9e #6b7480 #c2410c #0a7d55 #9b3d8f #8a6a00 #0e7490 #7c4a2d #4b4fc4".split())
_COLOURED = ("color", "facecolor", "edgecolor", "markerfacecolor", "markeredgecolor")  # of any artist
_KEY_INCHES = 0.28  # height of a row of keys
_GROUP = re.compile(r"#0001([0-9a-f]{2})")
_UNNAMED = re.compile(r'<g id="(?:text|line2d|patch|axes|figure|matplotlib\.axis|LineCollection)_\d+">')
_WIDTH, _HEIGHT = 400, 270  # of a chart, in SVG units: as narrow as names allow, for the text on a phone
_POINT = 72  # matplotlib's points per inch
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text, in the page's font
    "svg.hashsalt": "autopeft",
    "font.family": "DejaVu Sans",  # comes with matplotlib, so that the layout is the same everywhere
    "font.size": 11.5,
    "text.color": INK,
    "axes.edgecolor": SOFT,
    "axes.labelcolor": SOFT,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.unicode_minus": True,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.minor.size": 0,
    "figure.constrained_layout.use": True,
    "path.simplify": False,
}


def group_colour(number: int) -> str:
    """The stand-in for the colour of a group of plans, `--gN` on the page."""
    return f"#0001{number:02x}"


@dataclass
class Sheet:
    """One chart in the making. `titles` are the tooltips of drawn things by their id.

    `label` says what the chart shows, for a screen reader. `headings` and `rows` are its numbers as a table,
    for readers who do not see it. `groups` have a point in the chart.
    """

    name: str
    axes: Axes
    figure: Figure
    label: str = ""
    headings: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    titles: dict[str, str] = field(default_factory=dict)
    groups: set[Group] = field(default_factory=set)

    def named(self, key: str, title: str) -> str:
        """The id for a drawn thing, with a tooltip."""
        gid = f"{self.name}-{key}"
        self.titles[gid] = title
        return gid

    def labelled(
        self, label: str, *, headings: Sequence[str] = (), rows: Iterable[Sequence[str]] = ()
    ) -> Sheet:
        """The finished chart, with what it shows in words and in numbers."""
        self.label, self.headings, self.rows = label, tuple(headings), tuple(map(tuple, rows))
        return self

    def svg(self) -> Markup:
        """The chart as an `<svg>` element."""
        text = io.StringIO()
        with mpl.rc_context(_STYLE):
            metadata = {"Date": None, "Creator": None}
            self.figure.savefig(text, format="svg", transparent=True, metadata=metadata)
        return Markup(_for_page(text.getvalue(), self.name, self.label, self.titles))

    def picture(self) -> Figure:
        """The chart as a figure in light colours, with the keys of its groups; the sheet is spent then."""
        with mpl.rc_context(_STYLE):
            self._add_keys()
        for artist in self.figure.findobj():
            _paint(artist)
        self.axes.tick_params(colors=LIGHT_COLOURS[SOFT])  # of ticks that a reader's zoom adds
        return self.figure

    def _add_keys(self) -> None:
        """Name the groups below the axes, which keep their size."""
        groups = sorted(self.groups, key=lambda group: group.colour)
        if not groups:
            return
        handles = [
            Line2D([], [], color=group_colour(g.colour), marker=g.marker, linestyle="none", label=g.label)
            for g in groups
        ]
        n_columns = min(3, len(handles))
        n_rows = -(-len(handles) // n_columns)
        self.figure.set_figheight(self.figure.get_figheight() + n_rows * _KEY_INCHES)
        self.figure.legend(handles=handles, loc="outside lower center", ncols=n_columns, frameon=False)


@contextmanager
def sheet(name: str, *, width: float = _WIDTH, height: float = _HEIGHT) -> Iterator[Sheet]:
    """An empty chart; draw on its axes before the block ends. The sizes are in points."""
    with mpl.rc_context(_STYLE):
        # A pixel is a point, so that names which are placed by pixels fit at every resolution.
        figure = Figure(figsize=(width / _POINT, height / _POINT), dpi=_POINT)
        FigureCanvasSVG(figure)
        yield Sheet(name=name, axes=figure.add_subplot(), figure=figure)


def png_of(figure: Figure) -> bytes:
    """A figure as a PNG file, at twice the size of the page's charts."""
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=2 * _POINT, metadata={"Software": None})
    return content.getvalue()


def _paint(artist: Any) -> None:
    """Give an artist the light colours in place of stand-ins."""
    for name in _COLOURED:
        if hasattr(artist, f"get_{name}") and hasattr(artist, f"set_{name}"):
            getattr(artist, f"set_{name}")(_light(getattr(artist, f"get_{name}")()))
    if getattr(artist, "arrow_patch", None) is not None:  # which is no child of its annotation
        _paint(artist.arrow_patch)


def _light(colour: Any) -> Any:
    """A colour, or several, with light ones in place of stand-ins; their opacity stays."""
    if isinstance(colour, str) and colour.lower() in ("none", "auto"):
        return colour
    rows = [to_rgba(_real(to_hex(row)), alpha=row[3]) for row in to_rgba_array(colour)]
    return rows if np.ndim(colour) == 2 else rows[0]


def _real(colour: str) -> str:
    group = _GROUP.fullmatch(colour)
    return LIGHT_GROUPS[int(group[1], 16)] if group else LIGHT_COLOURS.get(colour, colour)


def log_axis(axes: Axes, values: Sequence[float], *, shown: FuncFormatter) -> None:
    """A logarithmic x axis around the values, at least a decade wide, with two labelled ticks or more."""
    low, high = min(values), max(values)
    centre, reach = (low * high) ** 0.5, max(10**0.5, (high / low) ** 0.5 * 1.6)
    axes.set_xscale("log")
    axes.set_xlim(centre / reach, centre * reach)
    steps = (1.0,) if reach > 40 else (1.0, 3.0) if reach > 8 else (1.0, 2.0, 5.0)
    axes.xaxis.set_major_locator(LogLocator(subs=steps, numticks=12))
    axes.xaxis.set_major_formatter(shown)
    axes.xaxis.set_minor_formatter(NullFormatter())


def spread(heights: Sequence[float], *, gap: float) -> list[float]:
    """Heights moved apart as little as it takes for neighbours to be at least `gap` apart, order kept.

    Example:
        >>> spread([10.0, 12.0, 40.0], gap=10.0)
        [6.0, 16.0, 40.0]
    """
    blocks: list[list[int]] = []
    order = sorted(range(len(heights)), key=lambda index: heights[index])
    for index in order:
        blocks.append([index])
        while len(blocks) > 1 and _low(blocks[-1], heights, gap) < _high(blocks[-2], heights, gap) + gap:
            blocks[-2:] = [blocks[-2] + blocks[-1]]
    placed = list(heights)
    for block in blocks:
        for place, index in enumerate(block):
            placed[index] = _low(block, heights, gap) + place * gap
    return placed


def _low(block: Sequence[int], heights: Sequence[float], gap: float) -> float:
    """The lowest height of a block of neighbours that is centred on the mean of what it holds."""
    return sum(heights[index] for index in block) / len(block) - gap * (len(block) - 1) / 2


def _high(block: Sequence[int], heights: Sequence[float], gap: float) -> float:
    return _low(block, heights, gap) + gap * (len(block) - 1)


def _for_page(text: str, name: str, label: str, titles: dict[str, str]) -> str:
    """Matplotlib's file as an element of a page: ids of its own, the page's colours and font, tooltips."""
    text = text[text.index("<svg") :]
    head, _, body = text.partition(">")
    view = re.search(r'viewBox="[^"]+"', head)
    assert view is not None
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r'<g id="([xy]tick)_\d+">', r'<g class="\1">', body)
    body = _UNNAMED.sub("<g>", body)
    body = re.sub(rf'id="(?!{name}-)([^"]+)"', rf'id="{name}_\1"', body)
    body = re.sub(r'(href="#|url\(#)', rf"\1{name}_", body)
    body = re.sub(r"font: ([\d.]+)px [^;\"]+", r"font-size: \1px", body)  # as matplotlib wrote it until 3.10
    body = re.sub(r"font-family: [^;\"]+;? ?", "", body)
    for stand_in, css in _CSS.items():
        body = body.replace(stand_in, css)
    body = _GROUP.sub(lambda found: f"var(--g{int(found[1], 16)})", body)
    for gid, title in titles.items():
        body = body.replace(f'<g id="{gid}">', f'<g id="{gid}"><title>{escape(title)}</title>')
    return f'<svg class="chart" {view[0]} role="img" aria-label="{escape(label)}">{body.rstrip()}'

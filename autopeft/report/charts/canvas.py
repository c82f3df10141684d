"""The sheet that every chart is drawn on: matplotlib to inline SVG that takes the page's colours and font.

matplotlib writes fixed colours. The charts use stand-ins for the page's CSS variables, which `Sheet.svg`
replaces, so that one picture serves light and dark. Equal calls give equal bytes.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import matplotlib as mpl
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

# Stand-ins for colours: matplotlib's text -> CSS.
INK, SOFT, CARD, BAND = "#000001", "#000002", "#000003", "#000004"
_CSS = {
    INK: "currentColor",
    SOFT: "var(--soft)",
    CARD: "var(--card)",
    BAND: "var(--band)",
}
_GROUP = re.compile(r"#0001([0-9a-f]{2})")
_UNNAMED = re.compile(r'<g id="(?:text|line2d|patch|axes|figure|matplotlib\.axis|LineCollection)_\d+">')
_WIDTH, _POINT = 460, 72  # of a chart, in SVG units; matplotlib's points per inch
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
    """One chart in the making. `titles` are the tooltips of drawn things by their id."""

    name: str
    axes: Axes
    figure: Figure
    titles: dict[str, str] = field(default_factory=dict)

    def named(self, key: str, title: str) -> str:
        """The id for a drawn thing, with a tooltip."""
        gid = f"{self.name}-{key}"
        self.titles[gid] = title
        return gid

    def svg(self, label: str) -> Markup:
        """The chart as an `<svg>` element; `label` is what a screen reader says."""
        text = io.StringIO()
        self.figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
        return Markup(_for_page(text.getvalue(), self.name, label, self.titles))


@contextmanager
def sheet(name: str, *, height: int = 300) -> Iterator[Sheet]:
    """An empty chart 460 wide; draw on its axes and take its SVG before the block ends."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(_WIDTH / _POINT, height / _POINT))
        FigureCanvasSVG(figure)
        yield Sheet(name=name, axes=figure.add_subplot(), figure=figure)


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

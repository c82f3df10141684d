"""A map of layer × role as a matplotlib chart, in the shades of the report."""

from __future__ import annotations

from matplotlib.patches import Rectangle

from autopeft.report.charts import Sheet, sheet
from autopeft.report.heat import LIGHT
from autopeft.report.maps import BEYOND, Cell, Map

# Sizes in points, chosen by hand.
_ROW, _COLUMN, _LABELS, _HEAD, _LEAST_WIDTH = 24, 52, 60, 90, 460
_EMPTY, _EDGE = "#ffffff", "#dfe3e6"  # a cell without value, and its edge


def grid(shown: Map, *, title: str) -> Sheet:
    """One cell per layer and role, the deepest layer on top, with a key of the shades below."""
    width = max(_LEAST_WIDTH, _LABELS + _COLUMN * len(shown.roles))
    with sheet(shown.name, width=width, height=_HEAD + _ROW * len(shown.rows)) as drawn:
        axes = drawn.axes
        for row, (_, cells) in enumerate(shown.rows):
            for column, cell in enumerate(cells):
                _draw(drawn, cell, row, column)
        axes.set_xlim(-0.5, len(shown.roles) - 0.5)
        axes.set_ylim(len(shown.rows) - 0.5, -0.5)
        axes.set_xticks(range(len(shown.roles)), shown.roles)
        axes.set_yticks(range(len(shown.rows)), [label for label, _ in shown.rows])
        axes.tick_params(length=0, top=False, labeltop=True, labelbottom=False)
        axes.spines[:].set_visible(False)
        axes.set_ylabel("layer")
        axes.set_title(title, fontsize="medium")
        levels = range(1, len(shown.legend) + 1)
        keys = [_patch((0.0, 0.0), level) for level in levels]
        drawn.figure.legend(
            keys,
            shown.legend,
            loc="outside lower center",
            ncols=len(keys),
            frameon=False,
            fontsize="small",
            handlelength=1.2,
            handletextpad=0.4,
            columnspacing=1.0,
        )
        return drawn.labelled(title)


def _draw(drawn: Sheet, cell: Cell, row: int, column: int) -> None:
    if not cell.text:  # no such module
        return
    drawn.axes.add_patch(_patch((column - 0.47, row - 0.46), cell.level))
    colour = LIGHT[min(cell.level, len(LIGHT)) - 1][1] if cell.level else LIGHT[0][1]
    drawn.axes.text(column, row, cell.text, ha="center", va="center", color=colour, fontsize="small")


def _patch(corner: tuple[float, float], level: int) -> Rectangle:
    """A cell in its shade; what lies beyond the scale is hatched."""
    if level == 0:
        return Rectangle(corner, 0.94, 0.92, facecolor=_EMPTY, edgecolor=_EDGE)
    shade = LIGHT[min(level, len(LIGHT)) - 1][0]
    hatch = "///" if level == BEYOND else None
    return Rectangle(corner, 0.94, 0.92, facecolor=shade, edgecolor=LIGHT[2][0], hatch=hatch, linewidth=0)

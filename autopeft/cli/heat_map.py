"""The layer × role map of a score for the terminal, at most 80 columns wide.

With colours each cell is shaded. Without colours a block stands beside the number, or a character where the
output cannot show blocks. Each shade or block stands for twice the share of the one before.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from textwrap import wrap

from rich.console import Console
from rich.text import Text

from autopeft.cli.printing import columns
from autopeft.records import Site, SiteScores, shortened
from autopeft.report.heat import LIGHT
from autopeft.report.maps import OUTSIDE, digits_of, shade_of

_MAX_ROWS = 16  # chosen by hand, so that the maps of two scores fit a screen; more layers are folded
_BLOCKS, _LETTERS = "▁▂▃▄▅▆▇█", ".:-=+*#@"
_ALL = "all"
_MIN_CELL, _MAX_CELL = 7, 12  # characters: "100.0 █", and a long role's name


@dataclass(frozen=True, kw_only=True)
class Row:
    """Neighbouring layers, or the sites outside all layers: percent per role, None where no site is."""

    label: str
    shares: tuple[float | None, ...]


def heat_lines(sites: Sequence[Site], score: SiteScores, *, blocks: str = _BLOCKS) -> Iterator[Text]:
    """The map of one score, the deepest layer on top, in lines of at most 80 columns.

    `blocks` are eight characters that stand beside the numbers, from little to much; empty shades the cells.
    """
    roles, rows = fold(sites, score)
    if not rows:
        yield Text(f"{score.name}: 0 at every site")
        return
    folded = "; folded rows: mean" if any("-" in row.label for row in rows) else ""
    head = wrap(f"{score.name}, percent of its total (deepest layer on top{folded})", columns())
    yield from (Text(line, style="bold") for line in head)
    top = _top(rows)
    for band in _bands(roles):
        yield _line("layer", [_heading(roles[column]) for column in band])
        for row in rows:
            tops = [0.0 if _ALL in (row.label, roles[column]) else top for column in band]
            cells = [
                _cell(row.shares[column], top=top_here, width=_width(roles[column]), blocks=blocks)
                for column, top_here in zip(band, tops, strict=True)
            ]
            yield _line(row.label, cells)


def fold(sites: Sequence[Site], score: SiteScores) -> tuple[tuple[str, ...], tuple[Row, ...]]:
    """The roles and rows of a map. More than 16 layers are folded: a row is the mean of its neighbours.

    The last role and the last row, both `all`, are sums over the others. There are no rows where the score
    is 0 at every site.
    """
    values = dict(zip(sites, score.values, strict=True))
    total = math.fsum(values.values())
    if not 0 < total < math.inf:
        return (), ()
    by_place: dict[tuple[int | None, str], float] = defaultdict(float)
    for site, value in values.items():
        by_place[site.layer, site.role] += 100 * value / total
    ordered = sorted(values, key=lambda site: site.layer is None)
    roles = tuple(dict.fromkeys(site.role for site in ordered))
    layers = sorted({layer for layer, _ in by_place if layer is not None})
    step = max(1, math.ceil(len(layers) / _MAX_ROWS))
    starts = reversed(range(0, len(layers), step))
    groups: list[Sequence[int | None]] = [layers[start : start + step] for start in starts]
    if any(layer is None for layer, _ in by_place):
        groups.append([None])
    rows = [_row(group, roles, by_place) for group in groups]
    sums = [math.fsum(share for (_, role), share in by_place.items() if role == column) for column in roles]
    return (*roles, _ALL), (*rows, Row(label=_ALL, shares=(*sums, 100.0)))


def _row(
    group: Sequence[int | None], roles: Sequence[str], by_place: Mapping[tuple[int | None, str], float]
) -> Row:
    """Per role the mean over the layers that have it."""
    first, last = group[0], group[-1]
    label = OUTSIDE if first is None else str(first) if first == last else f"{first}-{last}"
    shares: list[float | None] = []
    for role in roles:
        values = [by_place[layer, role] for layer in group if (layer, role) in by_place]
        shares.append(math.fsum(values) / len(values) if values else None)
    whole = math.fsum(share for (layer, _), share in by_place.items() if layer in group)
    return Row(label=label, shares=(*shares, whole / len(group)))


def _bands(roles: Sequence[str]) -> Iterator[list[int]]:
    """Columns that fit side by side."""
    band: list[int] = []
    used = len(OUTSIDE)
    for column, role in enumerate(roles):
        if used + 1 + _width(role) > columns():
            yield band
            band, used = [], len(OUTSIDE)
        band.append(column)
        used += 1 + _width(role)
    if [roles[column] for column in band] != [_ALL]:  # the sums alone are not worth a map of their own
        yield band


def _width(role: str) -> int:
    return min(_MAX_CELL, max(_MIN_CELL, len(role)))


def _heading(role: str) -> str:
    return shortened(role, _MAX_CELL).rjust(_width(role))


def _line(label: str, cells: Sequence[str | Text]) -> Text:
    return Text.assemble(label.rjust(len(OUTSIDE)), *(part for cell in cells for part in (" ", cell)))


def _top(rows: Sequence[Row]) -> float:
    """The largest share in a layer, since a site outside can dwarf all layers; without layers, of all."""
    shares = [(row.label, share) for row in rows[:-1] for share in row.shares[:-1] if share is not None]
    inside = max((share for label, share in shares if label != OUTSIDE), default=0.0)
    return inside or max(share for _, share in shares)


def _cell(share: float | None, *, top: float, width: int, blocks: str) -> str | Text:
    """A share with its shade or block; `top` is the largest share, 0 for a margin without shade."""
    if share is None:
        return " " * width
    number = f"{share:.{digits_of(top) if top and share < 99.9 else 1}f}"
    level = shade_of(share, top=top, n_shades=len(blocks or LIGHT)) if top else 0
    if blocks:
        return f"{number} {blocks[level - 1] if level else ' '}".rjust(width)
    style = f"{LIGHT[level - 1][1]} on {LIGHT[level - 1][0]}" if level else ""
    return Text(f"{number} ".rjust(width), style=style)


def blocks_for(out: Console) -> str:
    """The characters that a console can show beside the numbers; empty where it can shade the cells."""
    if out.color_system is not None and not out.no_color:
        return ""
    try:
        _BLOCKS.encode(out.encoding)
    except UnicodeEncodeError:
        return _LETTERS
    return _BLOCKS

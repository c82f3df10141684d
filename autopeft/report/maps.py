"""Maps of layer × role: the ranks of a plan, and the share of a score that each cell holds."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, pairwise

from autopeft.records import Adapter, Plan, SearchResult, Site, SiteScores
from autopeft.report.words import significant

OUTSIDE = "outside"  # row of the sites that are in no layer
MAX_ROWS = 24  # of a map that is not folded away; chosen by hand
LEFT_ALONE = "·"  # a site without adapter
# Ranks where a new shade begins, the same for every plan, so that maps of two plans can be compared.
RANK_STEPS = (1.0, 2.0, 4.0, 8.0, 16.0)
# The same for a score, as multiples of the mean cell of the layers; chosen by hand. A pooler can hold nine
# tenths of a score, beside which all layers would look alike.
_MEAN_STEPS = (0.0, 0.5, 1.0, 2.0, 4.0)
_WHOLE = 99.5  # percent from which two digits read as 100


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One layer × role. `level` is the shade, 0 for none; `title` lists its sites with their values."""

    text: str
    level: int
    title: str


@dataclass(frozen=True, kw_only=True)
class Map:
    """A grid of cells. `rows` pairs a layer's label with one cell per role, the deepest layer first.

    `total` is that of the score over all sites, None for ranks. `steps` are the numbers, in the unit of the
    cells, at which a new shade begins.
    """

    name: str
    roles: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]
    steps: tuple[float, ...]
    total: float | None = None

    @property
    def legend(self) -> tuple[str, ...]:
        """The numbers that each shade stands for, the lightest first, the hatched one last."""
        if self.total is None:
            last = int(self.steps[-1])
            spans = [f"{int(a)}–{int(b) - 1}" if b - a > 1 else f"{int(a)}" for a, b in pairwise(self.steps)]
            return (*spans, f"{last}–{4 * last - 1}", f"≥ {4 * last}")
        edges = [f"{significant(edge)} %" for edge in _edges(self.steps)]
        return (f"< {edges[0]}", *(f"≥ {edge}" for edge in edges))


def rank_map(sites: Sequence[Site], plan: Plan, short_labels: Mapping[str, str]) -> Map:
    """The ranks of a plan; a method without rank shows its short label (see `PartWords`).

    There are columns for every role that is adapted or holds a linear map. Several sites in a cell are
    grouped: `4 ×2, ·` means rank 4 twice and one site without adapter.
    """
    adapters: defaultdict[str, list[Adapter]] = defaultdict(list)
    for adapter in plan.adapters:
        adapters[adapter.site].append(adapter)
    shown = {s.role for s in sites if s.kind in ("linear", "conv1d") or s.name in adapters}

    def label(site: Site) -> str:
        words = (str(a.rank or short_labels.get(a.method, a.method)) for a in adapters.get(site.name, ()))
        return "+".join(words) or LEFT_ALONE

    def cell(group: Sequence[Site]) -> Cell:
        ranks = [adapter.rank for site in group for adapter in adapters.get(site.name, ())]
        rank = max(ranks, default=0)
        level = level_of(rank, RANK_STEPS) if rank else min(1, len(ranks))  # without rank: the lightest
        title = "; ".join(f"{site.name}: {label(site)}" for site in group)
        return Cell(text=_grouped([label(site) for site in group]), level=level, title=title)

    return _grid("rank", [site for site in sites if site.role in shown], cell, steps=RANK_STEPS)


def score_maps(result: SearchResult) -> tuple[Map, ...]:
    """The map of each score that tells the sites apart."""
    maps = (score_map(result.sites, score) for score in result.scores)
    return tuple(shown for shown in maps if shown is not None)


def score_map(sites: Sequence[Site], score: SiteScores) -> Map | None:
    """One score as shares in percent of its total over the sites; None if it is 0 at every site."""
    by_site = dict(zip((site.name for site in sites), score.values, strict=True))
    total = sum(by_site.values())
    if not 0 < total < float("inf"):
        return None
    sums = {place: sum(by_site[s.name] for s in group) for place, group in _places(sites).items()}
    in_layers = [value for (layer, _), value in sums.items() if layer is not None]
    scale = in_layers if any(in_layers) else list(sums.values())
    steps = tuple(100 * sum(scale) / len(scale) / total * step for step in _MEAN_STEPS)
    digits = 1 if 100 * max(scale) / total >= 5 else 2  # many sites have little each

    def cell(group: Sequence[Site]) -> Cell:
        value = sums[group[0].layer, group[0].role]
        title = "; ".join(f"{site.name}: {significant(by_site[site.name], 3)}" for site in group)
        share = 100 * value / total
        level = 1 + sum(share >= edge for edge in _edges(steps)) if value > 0 else 0
        return Cell(text=f"{share:.{digits}f}", level=level, title=title)

    return _grid(score.name, sites, cell, steps=steps, total=total)


def merged(shown: Map) -> Map:
    """The map with one row for neighbouring layers of which every cell is the same."""
    rows: list[tuple[str, tuple[Cell, ...]]] = []
    for _, run in groupby(shown.rows, key=lambda row: (row[0] == OUTSIDE, _looks(row[1]))):
        (last, deepest), *others = run  # the deepest layer comes first
        if not others:
            rows.append((last, deepest))
            continue
        first, cells = others[-1]
        both = (
            high if low == high else replace(high, title=f"{low.title} … {high.title}")
            for low, high in zip(cells, deepest, strict=True)
        )
        rows.append((f"{first}-{last}", tuple(both)))
    return replace(shown, rows=tuple(rows))


def _looks(cells: Sequence[Cell]) -> tuple[tuple[str, int], ...]:
    return tuple((cell.text, cell.level) for cell in cells)


def _edges(steps: Sequence[float]) -> list[float]:
    """Shares in percent at which the second and each further shade begins; none that would read as 100."""
    return [edge for edge in (*steps[1:], 4 * steps[-1]) if edge < _WHOLE]


def level_of(value: float, steps: Sequence[float]) -> int:
    """The shade of a value, from 1 to 6; `steps` are the numbers where a new shade begins.

    The last, hatched, is for four times the last step or more.

    Example:
        >>> [level_of(rank, RANK_STEPS) for rank in (1, 2, 3, 4, 15, 16, 63, 64)]
        [1, 2, 2, 3, 4, 5, 5, 6]
    """
    return max(1, sum(value >= step for step in (*steps, 4 * steps[-1])))


def _grid(
    name: str,
    sites: Sequence[Site],
    cell: Callable[[Sequence[Site]], Cell],
    *,
    steps: tuple[float, ...],
    total: float | None = None,
) -> Map:
    places = _places(sites)
    roles = tuple(dict.fromkeys(site.role for site in sorted(sites, key=lambda site: site.layer is None)))
    empty = Cell(text="", level=0, title="no such module")
    rows = []
    # The sites outside all layers come last.
    for layer in sorted({site.layer for site in sites}, key=lambda layer: -1 if layer is None else layer)[
        ::-1
    ]:
        cells = (cell(places[layer, role]) if (layer, role) in places else empty for role in roles)
        rows.append((OUTSIDE if layer is None else str(layer), tuple(cells)))
    return Map(name=name, roles=roles, rows=tuple(rows), steps=steps, total=total)


def _places(sites: Sequence[Site]) -> dict[tuple[int | None, str], list[Site]]:
    """The sites of each layer and role."""
    places: defaultdict[tuple[int | None, str], list[Site]] = defaultdict(list)
    for site in sites:
        places[site.layer, site.role].append(site)
    return places


def _grouped(labels: Sequence[str]) -> str:
    if set(labels) == {LEFT_ALONE}:
        return LEFT_ALONE
    return ", ".join(f"{label} ×{n}" if n > 1 else label for label, n in Counter(labels).items())

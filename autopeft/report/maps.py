"""Layer × role maps: a plan's ranks, and each score's share per cell."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, log2

from autopeft.records import Adapter, Plan, SearchResult, Site

N_LEVELS = 5  # shades in the template's colour scale
OUTSIDE = "outside"
LEFT_ALONE = "·"
Places = Mapping[tuple[int | None, str], Sequence[Site]]
_NULLS = ("uniform", "random")  # scores that know nothing of the model


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One layer × role. `level` is the shade, 0 for none; `title` lists the sites behind it."""

    text: str
    level: int
    title: str


@dataclass(frozen=True, kw_only=True)
class Map:
    """A grid of cells; `rows` pairs a layer's label with one cell per role, the deepest layer first.

    `total` is the sum of a score over the map's sites, None for ranks.
    """

    name: str
    roles: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]
    total: float | None = None


def rank_map(sites: Sequence[Site], plan: Plan, words: Callable[[str], str]) -> Map:
    """The ranks of a plan; where a method has none, the method's name.

    Args:
        sites: All sites of the base model.
        plan: Its adapters name some of them.
        words: Method -> what a cell shows for it.

    Returns:
        Columns for every role that is adapted or holds a linear map. Several sites
        in a cell are grouped: `4 ×2, ·` means rank 4 twice and one site left alone.
    """
    adapters: dict[str, list[Adapter]] = {}
    for adapter in plan.adapters:
        adapters.setdefault(adapter.site, []).append(adapter)
    shown = {s.role for s in sites if s.kind in ("linear", "conv1d") or s.name in adapters}
    top = max((adapter.rank for adapter in plan.adapters), default=0)

    def label(site: Site) -> str:
        return "+".join(str(a.rank or words(a.method)) for a in adapters.get(site.name, ())) or LEFT_ALONE

    def cell(group: Sequence[Site]) -> Cell:
        found = [adapter for site in group for adapter in adapters.get(site.name, ())]
        rank = max((adapter.rank for adapter in found), default=0)
        # Logarithmic, because ranks double; a method without rank takes the lightest shade.
        level = max(1, ceil(N_LEVELS * log2(1 + rank) / log2(1 + top))) if rank else min(1, len(found))
        title = "; ".join(f"{site.name}: {label(site)}" for site in group)
        return Cell(text=_grouped([label(site) for site in group]), level=level, title=title)

    return _grid("rank", [site for site in sites if site.role in shown], cell)


def score_maps(result: SearchResult) -> tuple[Map, ...]:
    """Each score as shares in percent of its own total; the nulls say nothing and are left out."""
    shown = [
        score for score in result.scores if score.name not in _NULLS or score.name == result.spec.search.score
    ]
    maps = (_score_map(result.sites, score.name, score.values) for score in shown)
    return tuple(m for m in maps if m is not None)


def _score_map(sites: Sequence[Site], name: str, values: Sequence[float]) -> Map | None:
    by_site = dict(zip((site.name for site in sites), values, strict=True))
    total = sum(values)
    if not 0 < total < float("inf"):
        return None
    shown = {site.role for site in sites if by_site[site.name] > 0}
    kept = [site for site in sites if site.role in shown]
    sums = {place: sum(by_site[s.name] for s in group) for place, group in _places(kept).items()}
    top = max(sums.values())

    def cell(group: Sequence[Site]) -> Cell:
        value = sums[group[0].layer, group[0].role]
        title = "; ".join(f"{site.name}: {by_site[site.name]:.3g}" for site in group)
        return Cell(text=f"{100 * value / total:.1f}", level=ceil(N_LEVELS * value / top), title=title)

    return _grid(name, kept, cell, total=total)


def _grid(
    name: str, sites: Sequence[Site], cell: Callable[[Sequence[Site]], Cell], *, total: float | None = None
) -> Map:
    places = _places(sites)
    roles = tuple(dict.fromkeys(site.role for site in sorted(sites, key=lambda site: site.layer is None)))
    layers: list[int | None] = [*sorted({s.layer for s in sites if s.layer is not None}, reverse=True)]
    if any(site.layer is None for site in sites):
        layers.append(None)
    empty = Cell(text="", level=0, title="no such site")
    rows = tuple(
        (
            OUTSIDE if layer is None else str(layer),
            tuple(cell(places[layer, role]) if (layer, role) in places else empty for role in roles),
        )
        for layer in layers
    )
    return Map(name=name, roles=roles, rows=rows, total=total)


def _places(sites: Sequence[Site]) -> Places:
    places: dict[tuple[int | None, str], list[Site]] = {}
    for site in sites:
        places.setdefault((site.layer, site.role), []).append(site)
    return places


def _grouped(labels: Sequence[str]) -> str:
    if set(labels) == {LEFT_ALONE}:
        return LEFT_ALONE
    return ", ".join(f"{label} ×{n}" if n > 1 else label for label, n in Counter(labels).items())

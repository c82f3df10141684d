"""Heat maps of layer × role: the ranks of a plan, and the share of a score in each cell."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, pairwise

from autopeft.report.formatting import significant
from autopeft.types import SEEN_ENOUGH, Adapter, Plan, Target, TargetScores, minus

OUTSIDE = "outside"  # row of the target modules that are in no layer
MAX_ROWS = 24  # rows that the page shows without a click; heuristic
NO_ADAPTER = "·"
# Ranks where a new shade begins, the same for every plan, so that two plans can be compared.
RANK_STEPS = (1.0, 2.0, 4.0, 8.0, 16.0)
# The same for a score, as multiples of the mean cell of the layers; heuristic. Target modules outside the
# layers do not count in the mean: a pooler can have nine tenths of a score, and all layers would look alike.
_MEAN_STEPS = (0.0, 0.5, 1.0, 2.0, 4.0)
_WHOLE = 99.5  # percent from which two digits read as 100


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One layer × role. `level` is the shade, 0 for none; `title` lists the target modules with values."""

    text: str
    level: int
    title: str


@dataclass(frozen=True, kw_only=True)
class Map:
    """A grid of cells. `rows` has a layer's label and one cell per role, the deepest layer first.

    `total` is the sum of the score over all target modules; None for ranks. At `steps`, in the unit of the
    cells, a new shade begins.
    """

    name: str
    roles: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]
    steps: tuple[float, ...]
    total: float | None = None

    @property
    def legend(self) -> tuple[str, ...]:
        """The numbers of each shade, the lightest first, the hatched one last."""
        if self.total is None:
            last = int(self.steps[-1])
            spans = [f"{int(a)}–{int(b) - 1}" if b - a > 1 else f"{int(a)}" for a, b in pairwise(self.steps)]
            return (*spans, f"{last}–{4 * last - 1}", f"≥ {4 * last}")
        edges = [f"{significant(edge)} %" for edge in _edges(self.steps)]
        return (f"< {edges[0]}", *(f"≥ {edge}" for edge in edges))


def rank_map(targets: Sequence[Target], plan: Plan, short_labels: Mapping[str, str]) -> Map:
    """Map the ranks of a plan; a method without ranks shows its short label.

    There are columns for every role that is adapted or has linear layers. Several target modules in a cell
    are grouped: `4 ×2, ·` means rank 4 twice and one target module without adapter.
    """
    adapters: defaultdict[str, list[Adapter]] = defaultdict(list)
    for adapter in plan.adapters:
        adapters[adapter.target].append(adapter)
    shown = {s.role for s in targets if s.kind in ("linear", "conv1d") or s.name in adapters}

    def label(target: Target) -> str:
        words = (str(a.rank or short_labels.get(a.method, a.method)) for a in adapters.get(target.name, ()))
        return "+".join(words) or NO_ADAPTER

    def cell(group: Sequence[Target]) -> Cell:
        ranks = [adapter.rank for target in group for adapter in adapters.get(target.name, ())]
        rank = max(ranks, default=0)
        level = _level(rank, RANK_STEPS) if rank else min(1, len(ranks))  # without rank: the lightest
        title = "; ".join(f"{target.name}: {label(target)}" for target in group)
        counts = Counter(label(target) for target in group)
        texts = [f"{text} ×{n}" if n > 1 else text for text, n in counts.items()]
        text = NO_ADAPTER if set(counts) == {NO_ADAPTER} else ", ".join(texts)
        return Cell(text=text, level=level, title=title)

    return _grid("rank", [target for target in targets if target.role in shown], cell, steps=RANK_STEPS)


def score_map(targets: Sequence[Target], score: TargetScores) -> Map | None:
    """Map a score as percent of its sum over the target modules; None if the sum is 0."""
    by_target = dict(zip((target.name for target in targets), score.values, strict=True))
    total = sum(by_target.values())
    if not total:
        return None
    sums = {place: sum(by_target[s.name] for s in group) for place, group in _places(targets).items()}
    in_layers = [value for (layer, _), value in sums.items() if layer is not None]
    scale = in_layers if any(in_layers) else list(sums.values())
    steps = tuple(100 * sum(scale) / len(scale) / total * step for step in _MEAN_STEPS)
    digits = 1 if 100 * max(scale) / total >= 5 else 2  # many target modules have little each

    def cell(group: Sequence[Target]) -> Cell:
        value = sums[group[0].layer, group[0].role]
        title = "; ".join(f"{target.name}: {significant(by_target[target.name], 3)}" for target in group)
        share = 100 * value / total
        level = _level(share, steps) if value > 0 else 0
        return Cell(text=f"{share:.{digits}f}", level=level, title=title)

    return _grid(score.name, targets, cell, steps=steps, total=total)


def merged(drawn: Map) -> Map:
    """Join neighboring layers with equal cells into one row."""
    rows: list[tuple[str, tuple[Cell, ...]]] = []

    def shown(row: tuple[str, tuple[Cell, ...]]) -> tuple[bool, list[tuple[str, int]]]:
        return row[0] == OUTSIDE, [(cell.text, cell.level) for cell in row[1]]

    for _, group in groupby(drawn.rows, key=shown):
        equal_rows = list(group)
        (deepest, upper), (shallowest, lower) = equal_rows[0], equal_rows[-1]
        cells = tuple(
            high if low == high else replace(high, title=f"{low.title} … {high.title}")
            for low, high in zip(lower, upper, strict=True)
        )
        rows.append((deepest if len(equal_rows) == 1 else f"{shallowest}-{deepest}", cells))
    return replace(drawn, rows=tuple(rows))


def _edges(steps: Sequence[float]) -> list[float]:
    """List where the second and each further shade begins; edges that would read as 100 % are left out.

    The last shade, hatched, begins at four times the last step.
    """
    return [edge for edge in (*steps[1:], 4 * steps[-1]) if edge < _WHOLE]


def _level(value: float, steps: Sequence[float]) -> int:
    """Return the shade of a value, from 1 to 6.

    Example:
        >>> [_level(rank, RANK_STEPS) for rank in (1, 2, 3, 4, 15, 16, 63, 64)]
        [1, 2, 2, 3, 4, 5, 5, 6]
    """
    return 1 + sum(value >= edge for edge in _edges(steps))


def _grid(
    name: str,
    targets: Sequence[Target],
    cell: Callable[[Sequence[Target]], Cell],
    *,
    steps: tuple[float, ...],
    total: float | None = None,
) -> Map:
    places = _places(targets)
    roles = tuple(
        dict.fromkeys(target.role for target in sorted(targets, key=lambda target: target.layer is None))
    )
    empty = Cell(text="", level=0, title="no such module")
    rows = []
    layers = sorted({target.layer for target in targets}, key=lambda layer: -1 if layer is None else layer)
    for layer in reversed(layers):  # the target modules outside all layers come last
        cells = (cell(places[layer, role]) if (layer, role) in places else empty for role in roles)
        rows.append((OUTSIDE if layer is None else str(layer), tuple(cells)))
    return Map(name=name, roles=roles, rows=tuple(rows), steps=steps, total=total)


def _places(targets: Sequence[Target]) -> dict[tuple[int | None, str], list[Target]]:
    """Group the target modules by layer and role."""
    places: defaultdict[tuple[int | None, str], list[Target]] = defaultdict(list)
    for target in targets:
        places[target.layer, target.role].append(target)
    return places


def enough_examples(score: TargetScores) -> str:
    """Describe how stable a score is, by the agreement of two halves of the examples.

    Example:
        >>> enough_examples(TargetScores(name="fisher", values=(1.0,), split_half=0.972, n_examples=128))
        'enough examples: two halves of 128 have a rank correlation of 0.97'
    """
    if score.split_half is None:
        return "computed from one example" if score.n_examples else "needs no examples"
    examples = "enough examples" if score.split_half >= SEEN_ENOUGH else "too few examples"
    rho = minus(f"{score.split_half:.2f}")
    return f"{examples}: two halves of {score.n_examples:,} have a rank correlation of {rho}"

"""Heat maps of layer × role: the ranks of a plan, and the share of a score in each cell."""

from __future__ import annotations

from bisect import bisect
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from autopeft.report.formatting import significant
from autopeft.types import SEEN_ENOUGH, Adapter, Plan, Target, TargetScores, minus

OUTSIDE = "other"  # row of the target modules that are in no layer
MAX_ROWS = 24  # rows that the page shows without a click; heuristic
NO_ADAPTER = "·"
# Where the second and each further shade begins: ranks, the same for every plan, so that two plans can be
# compared; and multiples of the mean cell of the layers for a score. Heuristic.
_RANK_STEPS = (2, 4, 8, 16)
_MEAN_STEPS = (0.5, 1, 2, 4)


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One layer × role. `level` is the shade, 0 for none; `title` lists the target modules with values."""

    text: str
    level: int
    title: str


@dataclass(frozen=True, kw_only=True)
class Map:
    """A grid of cells: `rows` has a layer's label and one cell per role, the deepest layer first."""

    name: str
    roles: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]


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
        counts = Counter(label(target) for target in group)
        texts = [f"{text} ×{n}" if n > 1 else text for text, n in counts.items()]
        return Cell(
            text=NO_ADAPTER if set(counts) == {NO_ADAPTER} else ", ".join(texts),
            level=1 + bisect(_RANK_STEPS, max(ranks)) if ranks else 0,
            title="; ".join(f"{target.name}: {label(target)}" for target in group),
        )

    return _grid("rank", [target for target in targets if target.role in shown], cell)


def score_map(targets: Sequence[Target], score: TargetScores) -> Map | None:
    """Map a score as percent of its sum over the target modules; None if the sum is 0."""
    by_target = dict(zip((target.name for target in targets), score.values, strict=True))
    total = sum(by_target.values())
    if not total:
        return None
    sums = {place: sum(by_target[s.name] for s in group) for place, group in _places(targets).items()}
    # Target modules outside the layers do not count in the mean: a pooler can have nine tenths of a score,
    # and all layers would look alike.
    in_layers = [value for (layer, _), value in sums.items() if layer is not None]
    scale = in_layers if any(in_layers) else list(sums.values())
    steps = [step * sum(scale) / len(scale) for step in _MEAN_STEPS]
    digits = 1 if 100 * max(scale) / total >= 5 else 2  # many target modules have little each

    def cell(group: Sequence[Target]) -> Cell:
        value = sums[group[0].layer, group[0].role]
        return Cell(
            text=f"{100 * value / total:.{digits}f}",
            level=1 + bisect(steps, value) if value > 0 else 0,
            title="; ".join(f"{target.name}: {significant(by_target[target.name], 3)}" for target in group),
        )

    return _grid(score.name, targets, cell)


def _grid(name: str, targets: Sequence[Target], cell: Callable[[Sequence[Target]], Cell]) -> Map:
    places = _places(targets)
    in_layers_first = sorted(targets, key=lambda target: target.layer is None)
    roles = tuple(dict.fromkeys(target.role for target in in_layers_first))
    empty = Cell(text="", level=0, title="no such module")
    rows = []
    layers = sorted({target.layer for target in targets}, key=lambda layer: -1 if layer is None else layer)
    for layer in reversed(layers):  # the target modules outside all layers come last
        cells = (cell(places[layer, role]) if (layer, role) in places else empty for role in roles)
        rows.append((OUTSIDE if layer is None else str(layer), tuple(cells)))
    return Map(name=name, roles=roles, rows=tuple(rows))


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
        '128 examples are enough: scores computed on each half have a rank correlation of 0.97'
    """
    if score.split_half is None:
        return "computed from one example" if score.n_examples else "needs no examples"
    are = "are enough" if score.split_half >= SEEN_ENOUGH else "are too few"
    rho = minus(f"{score.split_half:.2f}")
    return (
        f"{score.n_examples:,} examples {are}: scores computed on each half have a rank correlation of {rho}"
    )

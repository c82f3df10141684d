"""What `analyze` prints: a layer × role map per score, at most 80 columns wide, and what to make of it.

In colour a cell is shaded; plain, a block beside its number says the same, or a letter where the output
has no blocks. Each stands for twice the one before, up to the largest share in a layer.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from autopeft.cli.counts import size
from autopeft.cli.tables import console
from autopeft.extension import discover
from autopeft.records import Site, SiteScores, to_json, train_words
from autopeft.report import effective_ranks, seen_enough
from autopeft.report.heat import LIGHT, SEEN_ENOUGH
from autopeft.report.maps import digits_of, shade_of
from autopeft.report.words import duration, percent, plan_words, rate

if TYPE_CHECKING:
    from autopeft.pipeline import Analysis

_COLUMNS = 80
_MAX_ROWS = 16  # chosen by hand, so that the maps of two scores fit a screen; more layers are folded
_BLOCKS, _LETTERS = "▁▂▃▄▅▆▇█", ".:-=+*#@"
_OUTSIDE, _ALL = "outside", "all"
_MIN_CELL, _MAX_CELL = 7, 12  # characters: "100.0 █", and a long role's name
_SHOWN_NAMES = 5
_HELD_BY = (1, 4, 16)  # ranks of which the share of a spectrum's energy is told


@dataclass(frozen=True, kw_only=True)
class Row:
    """Some neighbouring layers, or what is outside the stack: percent per role, None for no site."""

    label: str
    shares: tuple[float | None, ...]


def print_analysis(analysis: Analysis) -> None:
    """The map of every score, whether enough was seen, what it cost, and the suggested plan."""
    out = console()
    n_drawn = len([site for site in analysis.sites if site.kind != "model"])
    out.print(f"{analysis.base_model} on {analysis.data}: {n_drawn} sites")
    blocks = _blocks(out)
    for score in analysis.scores:
        out.print()
        for line in heat_lines(analysis.sites, score, blocks=blocks):
            out.print(line)
        _print_wrapped(out, f"{score.name}: {_enough(score, n_train=analysis.n_train)}")
        for told in spectrum_words(analysis.sites, score):
            _print_wrapped(out, told)
    out.print()
    for paragraph in (*_facts(analysis), *_suggested(analysis)):
        _print_wrapped(out, paragraph)
    for file in analysis.files:
        out.print(file, markup=False)


def _blocks(out: Console) -> str:
    """What stands beside the numbers; nothing where they can be shaded."""
    if out.color_system is not None and not out.no_color:
        return ""
    try:
        _BLOCKS.encode(out.encoding)
    except UnicodeEncodeError:
        return _LETTERS
    return _BLOCKS


def analysis_json(analysis: Analysis) -> dict[str, Any]:
    """All of an analysis as plain values."""
    plan = analysis.suggestion.plan
    budget = analysis.budget
    return {
        "base_model": analysis.base_model,
        "data": analysis.data,
        "task": analysis.spec.task.name,
        "n_train_examples": analysis.n_train,
        "sites": [to_json(site) for site in analysis.sites],
        **to_json(analysis.sensitivity),
        "effective_ranks": next((list(r) for r in map(effective_ranks, analysis.scores) if r), None),
        "budget": to_json(budget),
        "suggestion": {
            "tested": False,
            "score": analysis.scores[0].name,
            "plan": to_json(plan),
            "digest": plan.digest,
            "trainable_params": plan.trainable_params,
            "head_params": analysis.suggestion.head_params,
            "percent": 100 * plan.trainable_params / budget.base_params,
            "search": analysis.search_command,
        },
        "files": list(analysis.files),
    }


def spectrum_words(sites: Sequence[Site], score: SiteScores) -> Iterator[str]:
    """Of a spectrum, how many directions the gradients of maps have, and what one rank holds of them."""
    kept = [
        (rank, energies, max(value, math.fsum(energies)))
        for site, rank, energies, value in zip(
            sites, effective_ranks(score), score.profiles, score.values, strict=False
        )
        if site.kind in ("linear", "conv1d") and rank is not None
    ]
    if kept:
        ranks = sorted(rank for rank, _, _ in kept)
        shares = (
            f"of rank {r} holds {median(100 * math.fsum(own[:r]) / total for _, own, total in kept):.0f} %"
            for r in _HELD_BY
        )
        yield (
            f"effective rank of a map's gradient: {ranks[0]:.1f} to {ranks[-1]:.1f}, median "
            f"{median(ranks):.1f}; of its energy the best update {', '.join(shares)} (median)"
        )


def heat_lines(sites: Sequence[Site], score: SiteScores, *, blocks: str = _BLOCKS) -> Iterator[Text]:
    """The map of one score, the deepest layer on top, in lines of at most 80 columns.

    Args:
        sites: All sites; the model as a whole has no cell.
        score: Values in the order of the sites.
        blocks: Eight that stand beside the numbers, from little to much; none: shade the cells.
    """
    roles, rows = fold(sites, score)
    if not rows:
        yield Text(f"{score.name}: 0 at every site")
        return
    folded = "; folded rows: mean" if any("-" in row.label for row in rows) else ""
    head = wrap(f"{score.name}, percent of its total (deepest layer on top{folded})", _COLUMNS)
    yield from (Text(line, style="bold") for line in head)
    top = _top(rows)
    for band in _bands(roles):
        yield _line("layer", [_short(roles[column]).rjust(_width(roles[column])) for column in band])
        for row in rows:
            is_margin = row.label == _ALL
            cells = [
                _cell(
                    row.shares[column],
                    top=0.0 if is_margin or roles[column] == _ALL else top,
                    width=_width(roles[column]),
                    blocks=blocks,
                )
                for column in band
            ]
            yield _line(row.label, cells)


def fold(sites: Sequence[Site], score: SiteScores) -> tuple[tuple[str, ...], tuple[Row, ...]]:
    """Roles, and the rows of a map with at most 16 rows of layers: neighbours are folded into their mean.

    The last role and the last row, both `all`, are sums over the others; rows are empty where the
    score is 0 at every site.
    """
    values = {site: value for site, value in zip(sites, score.values, strict=True) if site.kind != "model"}
    total = math.fsum(values.values())
    if not 0 < total < math.inf:
        return (), ()
    by_place: dict[tuple[int | None, str], float] = {}
    for site, value in values.items():
        place = site.layer, site.role
        by_place[place] = by_place.get(place, 0.0) + 100 * value / total
    ordered = sorted(values, key=lambda site: site.layer is None)
    roles = tuple(dict.fromkeys(site.role for site in ordered))
    layers = sorted({layer for layer, _ in by_place if layer is not None})
    step = max(1, math.ceil(len(layers) / _MAX_ROWS))
    starts = reversed(range(0, len(layers), step))
    groups: list[Sequence[int | None]] = [layers[start : start + step] for start in starts]
    if any(layer is None for layer, _ in by_place):
        groups.append([None])
    rows = [_row(group, roles, by_place) for group in groups]
    sums = [math.fsum(share for (_, role), share in by_place.items() if role == own) for own in roles]
    return (*roles, _ALL), (*rows, Row(label=_ALL, shares=(*sums, 100.0)))


def _row(
    group: Sequence[int | None], roles: Sequence[str], by_place: Mapping[tuple[int | None, str], float]
) -> Row:
    """Per role the mean over the layers that have it."""
    first, last = group[0], group[-1]
    label = _OUTSIDE if first is None else str(first) if first == last else f"{first}-{last}"
    shares: list[float | None] = []
    for role in roles:
        found = [by_place[layer, role] for layer in group if (layer, role) in by_place]
        shares.append(math.fsum(found) / len(found) if found else None)
    whole = math.fsum(share for (layer, _), share in by_place.items() if layer in group)
    return Row(label=label, shares=(*shares, whole / len(group)))


def _bands(roles: Sequence[str]) -> Iterator[list[int]]:
    """Columns that fit side by side."""
    band: list[int] = []
    used = len(_OUTSIDE)
    for column, role in enumerate(roles):
        if used + 1 + _width(role) > _COLUMNS:
            yield band
            band, used = [], len(_OUTSIDE)
        band.append(column)
        used += 1 + _width(role)
    if [roles[column] for column in band] != [_ALL]:  # the sums alone are not worth a map of their own
        yield band


def _width(role: str) -> int:
    return min(_MAX_CELL, max(_MIN_CELL, len(role)))


def _short(role: str) -> str:
    return role if len(role) <= _MAX_CELL else role[: _MAX_CELL - 1] + "…"


def _line(label: str, cells: Sequence[str | Text]) -> Text:
    line = Text(label.rjust(len(_OUTSIDE)))
    for cell in cells:
        line.append(" ")
        line.append(cell)
    return line


def _top(rows: Sequence[Row]) -> float:
    """The largest share in a layer, else anywhere: what is outside can dwarf all layers."""
    inside = [row.shares[:-1] for row in rows if row.label not in (_OUTSIDE, _ALL)]
    shares = [share for own in inside for share in own if share is not None]
    outside = [share for row in rows[:-1] for share in row.shares[:-1] if share is not None]
    return max(shares, default=0.0) or max(outside)


def _cell(share: float | None, *, top: float, width: int, blocks: str) -> str | Text:
    """A share with its shade or block; `top` is the largest share, 0 for a margin without shade."""
    if share is None:
        return " " * width
    digits = digits_of(top) if top and share < 99.9 else 1
    if not blocks:
        level = shade_of(share, top=top, n_shades=len(LIGHT)) if top else 0
        style = f"{LIGHT[level - 1][1]} on {LIGHT[level - 1][0]}" if level else ""
        return Text(f"{share:.{digits}f} ".rjust(width), style=style)
    level = shade_of(share, top=top, n_shades=len(blocks)) if top else 0
    block = blocks[level - 1] if level else " "
    return f"{share:.{digits}f} {block}".rjust(width)


def _enough(score: SiteScores, *, n_train: int) -> str:
    """Whether enough examples were seen, else how many to ask for."""
    told = seen_enough(score)
    rho = score.split_half
    if not score.n_examples or rho is None or not rho < SEEN_ENOUGH:
        return told
    if score.n_examples >= n_train:
        return f"{told}, and the train split has no more"
    return f"{told}; pass --max-examples {min(n_train, _needed(rho, score.n_examples))}"


def _needed(rho: float, n_examples: int) -> int:
    """Examples for halves that agree by 0.95, at most 16 times as many, as a power of two.

    Source:
        Spearman 1910 and Brown 1910, British Journal of Psychology 3: a test k times as long has the
        reliability k r / (1 + (k - 1) r); made for Pearson's correlation, so a rough guide here.
    """
    factor = 16.0 if rho <= 0 else SEEN_ENOUGH * (1 - rho) / ((1 - SEEN_ENOUGH) * rho)
    return int(2 ** math.ceil(math.log2(n_examples * min(16.0, max(2.0, factor)))))


def _facts(analysis: Analysis) -> Iterator[str]:
    found = analysis.sensitivity
    yield (
        f"{found.n_examples:,} of {found.n_asked:,} examples, {duration(found.seconds)}, "
        f"{size(found.peak_bytes)} at the peak"
    )
    if found.unreachable:
        names = ", ".join(found.unreachable[:_SHOWN_NAMES])
        more = (
            f" and {len(found.unreachable) - _SHOWN_NAMES} more"
            if len(found.unreachable) > _SHOWN_NAMES
            else ""
        )
        yield f"no gradient reaches {len(found.unreachable)} sites, which have the score 0: {names}{more}"
    for note in found.notes:
        yield f"note: {note}"


def _suggested(analysis: Analysis) -> Iterator[str]:
    plan, budget = analysis.suggestion.plan, analysis.budget
    share = 100 * plan.trainable_params / budget.base_params
    labels = {method.name: method.label for method in discover("autopeft.methods").values()}
    yield (
        f"suggestion by {analysis.scores[0].name}, untested: {plan_words(plan, labels)}, "
        f"{plan.trainable_params:,} parameters ({percent(share)}), learning rate {rate(plan.learning_rate)}"
    )
    if analysis.files:
        asked = analysis.spec
        yield f"test it: {train_words(Path(analysis.files[-1]), asked.model, asked.data)}"
    yield f"look for more: {analysis.search_command}"


def _print_wrapped(out: Console, paragraph: str) -> None:
    """At most 80 columns but for words, such as paths, that are longer; commands stay in one line."""
    kept_together = paragraph.replace(" %", "\N{NO-BREAK SPACE}%")
    lines = (
        [paragraph]
        if "autopeft " in paragraph
        else wrap(kept_together, _COLUMNS, break_long_words=False, break_on_hyphens=False)
    )
    for line in lines:
        out.print(line.replace("\N{NO-BREAK SPACE}", " "), markup=False)

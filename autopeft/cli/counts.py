"""What `count` prints: a title, the roles, the layers, and notes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby, pairwise
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from autopeft.cli.printing import columns, room
from autopeft.report.words import percent

if TYPE_CHECKING:
    from autopeft.commands import Count, Counted, StepEstimate

_STEP = "step ms"
_ROLE = ("role", "sites", "rank", "parameters", "share")
_LAYER = ("layer", "each", "parameters", "share")
_WORD = 16  # characters of a name in a comparison
_UNITS = ("B", "kB", "MB", "GB", "TB")


def count_text(count: Count, memory: StepEstimate | None = None, *, markdown: bool = False) -> str:
    """A count in columns or Markdown tables, at most 80 characters wide where the model's name is short.

    `memory` is that of a training step; None where it cannot be told.
    """
    table = _markdown if markdown else _aligned
    strong = "**" if markdown else ""
    head = f"task head {count.head_params:,} beside it" if count.head_params else "no task head"
    lines = [
        f"{strong}{count.base_model}: {', '.join(count.methods)}, {count.trainable_params:,} trainable "
        f"parameters ({percent(100 * count.share_of_base)}){strong}",
        "",
        f"base model {count.base_params:,}; {head}; saved tensors {size(count.adapter_bytes)}",
    ]
    if memory is not None:
        lines += [memory_line(memory)]
    if not markdown:
        lines = [
            part for line in lines for text in line.split("\n") for part in wrap(text, columns()) or [""]
        ]
    if count.by_role:
        for headers, rows in ((_ROLE, _roles(count)), (_LAYER, _layers(count))):
            shown, cells, _ = (headers, rows, []) if markdown else _cut(headers, rows)
            lines += ["", *table(shown, cells)]
    if count.notes:
        marked = [f"{'- ' if markdown else ''}note: {note}" for note in count.notes]
        lines += ["", *(marked if markdown else ["\n".join(wrap(note, columns())) for note in marked])]
    return "\n".join(lines)


def memory_line(estimate: StepEstimate) -> str:
    """The memory of a training step, for the foot of a count."""
    step = estimate.answer.step
    n_bytes = step.memory.expected
    memory = f"{n_bytes / 2**30:.1f} GiB" if n_bytes >= 0.1 * 2**30 else f"{n_bytes / 2**20:.1f} MiB"
    return (
        f"training takes about {memory} for {step.n_rows} rows of "
        f"{step.n_tokens:,} tokens\nin {estimate.dtype}; `autopeft estimate` says more"
    )


def comparison_text(compared: Mapping[str, Counted], *, markdown: bool = False) -> str:
    """Several trainees side by side, by the words that the user gave."""
    every = list(compared.values())
    title = every[0].count.base_model
    known = next((each.step for each in every if each.step is not None), None)
    if known is not None:
        step = known.answer.step
        title += f", {step.n_rows} rows of {step.n_tokens:,} tokens, {known.dtype}"
    headers: Sequence[str] = ("trained", "parameters", "share", "peak GiB", _STEP, "file", "read by")
    rows: Sequence[Sequence[str]] = [_compared(word, counted) for word, counted in compared.items()]
    headers, rows, notes = (headers, rows, []) if markdown else _narrowed(headers, rows)
    if known is not None and known.rates is not None and _STEP in headers:
        notes.insert(0, f"{_STEP}: expected time of a step on {known.rates.name}.")
    notes += [f"–: {reason}" for reason in dict.fromkeys(each.reason for each in every) if reason]
    table = _markdown if markdown else _aligned
    below = [line for note in notes for line in wrap(note, columns())]
    return "\n".join([*wrap(title, columns()), "", *table(headers, rows), "", *below])


def _narrowed(
    headers: Sequence[str], rows: Sequence[Sequence[str]]
) -> tuple[Sequence[str], Sequence[Sequence[str]], list[str]]:
    """The columns that the terminal has room for, and notes: who reads what, and what is left out."""
    notes: list[str] = []
    if _width(headers, rows) > room():
        readers: dict[str, list[str]] = {}
        for word, *_, servers in rows:
            readers.setdefault(servers, []).append(word)
        listed = "; ".join(f"{servers} ({', '.join(words)})" for servers, words in readers.items())
        notes = [f"{headers[-1]}: {listed}"]
        headers, rows = headers[:-1], [row[:-1] for row in rows]
    headers, rows, left_out = _cut(headers, rows)
    return headers, rows, notes + [f"no room for: {', '.join(left_out)}; --json has all"] * bool(left_out)


def _cut(
    headers: Sequence[str], rows: Sequence[Sequence[str]]
) -> tuple[Sequence[str], Sequence[Sequence[str]], list[str]]:
    """The first columns, as many as the terminal has room for, and the names of the others."""
    left_out: list[str] = []
    while _width(headers, rows) > room() and len(headers) > 1:
        left_out.insert(0, headers[-1])
        headers, rows = headers[:-1], [row[:-1] for row in rows]
    return headers, rows, left_out


def _width(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> int:
    return len(_aligned(headers, rows)[0])


def _compared(word: str, counted: Counted) -> tuple[str, ...]:
    content = comparison_json(counted)
    seconds, peak = content["step_seconds"], content["peak_bytes"]
    servers = content["read_by"]
    read_by = "peft alone" if servers is None else ", ".join(servers) or "after a merge"
    return (
        word if len(word) <= _WORD else f"…{word[1 - _WORD :]}",
        f"{content['trainable_params']:,}",
        percent(100 * content["trainable_params"] / content["base_params"]),
        "–" if peak is None else f"{peak['expected'] / 2**30:.1f}",
        "–" if seconds is None else f"{1e3 * seconds:,.0f}",
        size(content["file_bytes"]),
        "any" if counted.is_full else read_by,
    )


def comparison_json(counted: Counted) -> dict[str, Any]:
    """One row of a comparison, for scripts.

    `read_by` is null where plain peft alone reads it. Memory, operations and time are null where they cannot
    be told.
    """
    count, step = counted.count, None if counted.step is None else counted.step.answer.step
    memory = None if step is None else step.memory
    return {
        "trainable_params": count.trainable_params,
        "base_params": count.base_params,
        "peak_bytes": memory and {"low": memory.low, "expected": memory.expected, "high": memory.high},
        "flops": step and step.flops,
        "step_seconds": step and step.seconds,
        "file_bytes": count.adapter_bytes,
        "read_by": None if counted.servers is None else list(counted.servers),
    }


def size(n_bytes: int) -> str:
    """Bytes in the decimal unit that leaves one to three digits before the point.

    Example:
        >>> size(36_715_216), size(900)
        ('36.7 MB', '900 B')
    """
    value, unit = float(n_bytes), 0
    while value >= 999.95 and unit < len(_UNITS) - 1:  # 999.95 would be printed as 1000.0
        value, unit = value / 1000, unit + 1
    return f"{value:.1f} {_UNITS[unit]}" if unit else f"{n_bytes} B"


def _roles(count: Count) -> Sequence[tuple[str, ...]]:
    rows = []
    for role, params in count.by_role.items():
        low, high = count.ranks.get(role, (0, 0))
        rank = "" if high == 0 else f"{low}" if low == high else f"{low}-{high}"
        rows.append((role, f"{count.sites[role]}", rank, f"{params:,}", _share(params, count)))
    return rows


def _layers(count: Count) -> Sequence[tuple[str, ...]]:
    """Rows of layers; those with equally many parameters share one where they are neighbours or alternate."""
    layers_by_params: dict[int, list[int]] = {}
    for layer, params in count.by_layer.items():
        if layer.isdigit():
            layers_by_params.setdefault(params, []).append(int(layer))
    rows = sorted(
        (layers, each)
        for each, same in layers_by_params.items()
        for layers in ([same] if _alternates(_runs(same)) else _runs(same))
    )
    named = [(_layer_words(layers), f"{each:,}", each * len(layers)) for layers, each in rows]
    others = [(layer, "", params) for layer, params in count.by_layer.items() if not layer.isdigit()]
    return [(*words, f"{params:,}", _share(params, count)) for *words, params in (*named, *others)]


def _runs(layers: Sequence[int]) -> list[list[int]]:
    """Rising numbers, cut into runs without gaps."""
    groups = groupby(enumerate(layers), key=lambda item: item[1] - item[0])
    return [[layer for _, layer in group] for _, group in groups]


def _alternates(runs: Sequence[Sequence[int]]) -> bool:
    """Whether three runs or more are of one length and equally far apart; the last may be shorter."""
    lengths = {len(run) for run in runs[:-1]}
    gaps = {after[0] - before[0] for before, after in pairwise(runs)}
    return len(runs) > 2 and len(lengths) == len(gaps) == 1 and len(runs[-1]) <= len(runs[0])


def _layer_words(layers: Sequence[int]) -> str:
    """Layers in one run, or in runs that alternate.

    Example:
        >>> _layer_words([3]), _layer_words([0, 1, 2]), _layer_words([0, 2, 4, 6])
        ('3', '0-2', '0, 2, …, 6')
    """
    words = [f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in _runs(layers)]
    return ", ".join(words if len(words) < 4 else [*words[:2], "…", words[-1]])


def _share(params: int, count: Count) -> str:
    return f"{100 * params / max(1, count.trainable_params):.1f} %"


def _aligned(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Columns two spaces apart; the first is aligned to the left, the others to the right."""
    every = [headers, *rows]
    widths = [max(map(len, column)) for column in zip(*every, strict=True)]
    form = "  ".join(f"{{:{'>' if i else '<'}{width}}}" for i, width in enumerate(widths))
    return [form.format(*row) for row in every]


def _markdown(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    rule = ["---", *("---:" for _ in headers[1:])]
    return [f"| {' | '.join(row)} |" for row in (headers, rule, *rows)]

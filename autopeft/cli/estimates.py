"""What `estimate` prints: memory in parts, what fits, the nearest settings that do, time and price."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from autopeft.cli.printing import columns
from autopeft.report.words import duration, percent

if TYPE_CHECKING:
    from autopeft.commands import StepEstimate
    from autopeft.estimate import Limits, Memory, Step

_NAME, _CELL = 34, 12  # columns of the names of parts, and of each number
_LEAST_NAME, _LEAST_CELL = 12, 10  # as few as they can be: the longest word, and "expected" with a gap
_ENDS = ("low", "expected", "high")
TIME_SPAN = (0.75, 1.0, 1.35)  # of published steps (reports/studies/published_times.md)
_LOOPS = {"autopeft": "autopeft's trainer", "trainer": "the Trainer of transformers"}


def gib(n_bytes: float) -> str:
    """Bytes in GiB, as cards and --memory count them.

    Example:
        >>> gib(25_769_803_776)
        '24.00'
    """
    return f"{n_bytes / 2**30:,.2f}"


def estimate_text(estimate: StepEstimate) -> str:
    """An estimate for people, at most 80 columns wide."""
    described, step, limits = estimate.answer.described, estimate.answer.step, estimate.answer.limits
    count, device = described.count, "a GPU" if estimate.on_gpu else "a CPU"
    if estimate.rates is not None:
        device = estimate.rates.name
    trained = described.base_params if count is None else count.trainable_params
    quantised = _bits_of(estimate)
    bits = "" if quantised == "none" else f", maps in {quantised}"
    paragraphs = [
        f"{estimate.trainee.label} on {described.base_model}",
        f"{trained:,} trainable parameters of {described.base_params:,} "
        f"({percent(100 * trained / described.base_params)})",
        f"{_rows(step.n_rows)} of {step.n_tokens:,} tokens, {estimate.dtype}{bits}, checkpointing "
        f"{'on' if step.checkpointing else 'off'}, {_LOOPS[estimate.like]} on {device}",
    ]
    lines = [*_wrapped(paragraphs), "", *_table(step.memory, on_gpu=estimate.on_gpu)]
    lines += ["", *_wrapped([f"Memory is highest in this part of a step: {step.memory.phase}."])]
    lines += ["", *_wrapped(_times(estimate))]
    if limits is not None:
        lines += ["", *_wrapped(_limits(limits, step))]
    if notes := _notes(estimate):
        lines += ["", *_wrapped(f"note: {note}" for note in notes)]
    return "\n".join(lines)


def _bits_of(estimate: StepEstimate) -> str:
    """How bitsandbytes holds the maps, on request or in the checkpoint: `4bit`, `8bit` or `none`."""
    stored = estimate.answer.described.stored
    return estimate.answer.step.quantize if stored is None else stored.quantize


def _notes(estimate: StepEstimate) -> list[str]:
    described = estimate.answer.described
    return [*described.notes, *(described.count.notes if described.count else ())]


def _rows(n_rows: int) -> str:
    return "1 row" if n_rows == 1 else f"{n_rows:,} rows"


def _table(memory: Memory, *, on_gpu: bool) -> list[str]:
    """Rows of the parts, with columns for low, expected and high."""
    parts = {
        "weights": memory.weights,
        "adapters, gradients, optimizer": memory.trained,
        "activations": memory.activations,
        "logits and loss": memory.logits,
    }
    rows = [(name, [gib(n_bytes)] * 3) for name, n_bytes in parts.items()]
    reserve = "allocator's reserve" if on_gpu else "allocator's reserve, libraries"
    rows.append((reserve, [gib(n_bytes) for n_bytes in memory.reserve]))
    rows.append(("total", [gib(memory.low), gib(memory.expected), gib(memory.high)]))
    header = ("peak memory, GiB", ["low", "expected", "high"])
    cell_width = _CELL if columns() >= _NAME + 3 * _CELL else _LEAST_CELL
    name_width = max(_LEAST_NAME, min(_NAME, columns() - 3 * cell_width))
    lines = []
    for name, cells in [header, *rows]:
        *above, last = wrap(name, name_width)
        numbers = "".join(f"{cell:>{cell_width}}" for cell in cells)
        lines += [*above, f"{last:<{name_width}}{numbers}"]
    return lines


def _times(estimate: StepEstimate) -> Iterator[str]:
    """Sentences about the time of a step, of a run and of a search."""
    step, run = estimate.answer.typical, estimate.run
    if step.seconds is None:
        yield "No time is told for a GPU that is not here; name a card, such as --device l4."
        return
    low, expected, high = (duration(share * step.seconds) for share in TIME_SPAN)
    n_tokens = step.n_rows * step.n_tokens
    yield (
        f"A step of {_rows(step.n_rows)} of {step.n_tokens:,} tokens takes {expected} ({low} to {high}); "
        f"{n_tokens / step.seconds:,.0f} tokens a second."
    )
    if run is None:
        yield "Pass --data or --max-steps for the time of a run."
        return
    yield f"A full run of {run.n_steps:,} steps takes {_spent(run.seconds, run.price)}, without evaluation."
    whole = run.search_runs * run.seconds
    yield f"A search may take {run.search_runs:g} times as long: {_spent(whole, run.price)}."


def _spent(seconds: float, price: float | None) -> str:
    """Time as low to high, and what it costs."""
    low, _, high = (share * seconds for share in TIME_SPAN)
    words = f"{duration(low)} to {duration(high)}"
    return (
        words if price is None else f"{words} (price {price * low / 3600:,.2f} to {price * high / 3600:,.2f})"
    )


def _limits(limits: Limits, step: Step) -> Iterator[str]:
    """Sentences about what fits."""
    whole = f"{gib(limits.max_bytes)} GiB"
    if limits.fits:
        yield f"This fits into {whole}."
        yield f"Largest batch of rows of {step.n_tokens:,} tokens: {limits.most_rows:,}."
        yield f"Longest row in a batch of {step.n_rows:,}: {limits.longest_row:,} tokens."
        return
    yield f"This does not fit into {whole}: {gib(step.memory.high)} GiB may be needed."
    if limits.nearest is not None:
        yield f"The nearest settings that fit take {gib(limits.nearest.memory.high)} GiB at most:"
        yield flags(limits.nearest)
    elif limits.least is not None:
        yield (
            f"No settings of this model fit; the smallest step takes {gib(limits.least.memory.high)} GiB at "
            "most:"
        )
        yield flags(limits.least)
        yield "Take a smaller model, or a device with more memory."


def flags(step: Step) -> str:
    """The flags that give the settings of a step."""
    bits = "" if step.quantize == "none" else f"--quantize {step.quantize} "
    switch = "on" if step.checkpointing else "off"
    return f"{bits}--checkpointing {switch} --batch-size {step.n_rows} --max-length {step.n_tokens}"


def _wrapped(paragraphs: Any) -> list[str]:
    return [line for paragraph in paragraphs for line in wrap(paragraph, columns(), break_on_hyphens=False)]


def estimate_json(estimate: StepEstimate) -> dict[str, Any]:
    """An estimate for scripts; `peak_bytes` and `parts` are in bytes."""
    described, step, limits = estimate.answer.described, estimate.answer.step, estimate.answer.limits
    count = described.count
    content = {
        "base_model": described.base_model,
        "trained": estimate.trainee.label,
        "trainable_params": described.base_params if count is None else count.trainable_params,
        "head_params": 0 if count is None else count.head_params,
        "base_params": described.base_params,
        "dtype": estimate.dtype,
        "like": estimate.like,
        "device": "gpu" if estimate.on_gpu else "cpu",
        **_step_json(step),
        "quantize": _bits_of(estimate),
        "phase": step.memory.phase,
        **_times_json(estimate),
        "notes": _notes(estimate),
    }
    if limits is None:
        return content
    given = asdict(limits)
    return {
        **content,
        "memory_bytes": limits.max_bytes,
        **{name: given[name] for name in ("fits", "most_rows", "longest_row")},
        "nearest": limits.nearest and _step_json(limits.nearest),
        "least": limits.least and _step_json(limits.least),
    }


def _times_json(estimate: StepEstimate) -> dict[str, Any]:
    """Seconds of the typical step, of a run and of a search; null where they are not known."""
    step, run = estimate.answer.typical, estimate.run

    def span(seconds: float | None) -> dict[str, float] | None:
        if seconds is None:
            return None
        return {end: share * seconds for end, share in zip(_ENDS, TIME_SPAN, strict=True)}

    return {
        "typical_length": step.n_tokens,
        "step_seconds": span(step.seconds),
        "full_run_steps": run and run.n_steps,
        "full_run_seconds": run and span(run.seconds),
        "search_full_runs": run and run.search_runs,
        "price_per_hour": run and run.price,
    }


def _step_json(step: Step) -> dict[str, Any]:
    memory = step.memory
    low, expected, high = memory.reserve
    return {
        "batch_size": step.n_rows,
        "max_length": step.n_tokens,
        "quantize": step.quantize,
        "checkpointing": step.checkpointing,
        "flops": step.flops,
        "peak_bytes": {"low": memory.low, "expected": memory.expected, "high": memory.high},
        "parts": {
            "weights": memory.weights,
            "trained": memory.trained,
            "activations": memory.activations,
            "logits_and_loss": memory.logits,
            "reserve": {"low": low, "expected": expected, "high": high},
        },
    }

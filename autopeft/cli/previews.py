"""What `search --dry-run` prints: what would be done, and what it would take."""

from __future__ import annotations

from collections.abc import Iterator
from textwrap import wrap
from typing import TYPE_CHECKING

from autopeft.report.words import duration, memory

if TYPE_CHECKING:
    from autopeft.pipeline import Forecast, Preview

_NAME, _COLUMNS = 14, 80
_SPLITS = ("train", "search", "confirm", "test")


def preview_text(preview: Preview) -> str:
    """A preview for people, at most 80 columns wide: a word and a paragraph beside it, line by line."""
    rows = [*_subject(preview), *_work(preview), *_costs(preview.forecast)]
    rows += [("" if i else "derived", str(decision)) for i, decision in enumerate(preview.decisions)]
    lines = [line for name, text in rows for line in _beside(name, text)]
    return "\n".join([*lines, "Nothing was trained and nothing was written."])


def _beside(name: str, text: str) -> Iterator[str]:
    for place, line in enumerate(wrap(text, _COLUMNS - _NAME, break_on_hyphens=False)):
        yield f"{'' if place else name:<{_NAME}}{line}"


def _subject(preview: Preview) -> Iterator[tuple[str, str]]:
    """Model, data and budget."""
    yield "model", f"{preview.base_model} on {preview.device} in {preview.dtype}"
    columns = ", ".join(dict.fromkeys((*preview.inputs, preview.label)))
    sizes = ", ".join(
        f"{preview.split_sizes[name]:,} {name}" for name in _SPLITS if name in preview.split_sizes
    )
    yield "data", f"{preview.data}, columns {columns}; rows: {sizes}"
    yield "folder", preview.out or "a new one in reports/"
    yield (
        "budget",
        f"{preview.max_trainable_params:,} of {preview.base_params:,} parameters, head "
        f"{preview.head_params:,} beside it",
    )
    matched = ", ".join(f"{name} {n_sites}" for name, n_sites in preview.matched_sites.items())
    yield "sites", f"{preview.n_sites}; of these each method fits: {matched}"
    yield "baselines", ", ".join(preview.baselines)
    yield "methods", ", ".join(preview.methods)


def _work(preview: Preview) -> Iterator[tuple[str, str]]:
    """Trials, rungs and confirmation."""
    first, *others = map(str, preview.rung_steps)
    above = f", the best go on to {' and '.join(others)}" if others else ""
    text = preview.forgetting
    yield "search", f"{preview.trials} trials of {first} steps{above}; at most {preview.search_cost:.1f} R"
    yield "full run", f"{preview.full_run_steps} steps"
    yield (
        "confirmation",
        f"{preview.confirm_seeds} seeds of {preview.confirm_steps} steps per plan; "
        f"{preview.confirm_cost:.1f} R for two plans",
    )
    if text is not None:
        yield "forgetting", f"{text.n_blocks} blocks of {text.block_tokens} tokens of {text.name}"


def _costs(forecast: Forecast | None) -> Iterator[tuple[str, str]]:
    """Time, memory and price."""
    if forecast is None:
        yield "time", "unknown: the baseline could not be trained for two steps"
        return
    low, expected, high = (duration(s) for s in vars(forecast.seconds).values())
    yield "time", f"{expected} ({low} to {high}); R is {duration(forecast.full_run_seconds)}"
    if forecast.price is not None:
        price = forecast.price
        yield "price", f"{price.expected:,.2f} ({price.low:,.2f} to {price.high:,.2f})"
    yield (
        "memory",
        f"{memory(forecast.peak_bytes)} for a training step with {forecast.dearest}, the dearest method, "
        "weights included",
    )

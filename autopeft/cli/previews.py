"""What `search --dry-run` prints: what would be done, and what it would take."""

from __future__ import annotations

from collections.abc import Iterator
from textwrap import wrap
from typing import TYPE_CHECKING

from autopeft.cli.printing import columns
from autopeft.records import shortened
from autopeft.report.words import duration, memory

if TYPE_CHECKING:
    from autopeft.commands import Forecast, Preview, TaskFacts

_NAME = 14
_SHOWN_LABELS, _LABEL_LENGTH = 5, 24  # labels, and characters of each; chosen by hand
# What the labels of each kind of target are; {n} counts them.
_LABELS = {
    "class": "{n} classes",
    "classes": "any of {n} labels",
    "tags": "{n} tags",
    "choice": "one of {n} answers",
    "completion": "texts to write",
    "chat": "the last answers of chats",
    "documents": "all of the text",
    "stream": "all of the text, without a break",
}
_SPLITS = ("train", "search", "confirm", "test")


def preview_text(preview: Preview) -> str:
    """A preview for people, at most 80 columns wide: a word and a paragraph beside it, line by line."""
    rows = [*_subject(preview), *_work(preview), *_costs(preview.forecast)]
    rows += [("" if i else "derived", str(decision)) for i, decision in enumerate(preview.decisions)]
    lines = [line for name, text in rows for line in _beside(name, text)]
    return "\n".join([*lines, "Nothing was trained and nothing was written."])


def _beside(name: str, text: str) -> Iterator[str]:
    for place, line in enumerate(wrap(text, columns() - _NAME, break_on_hyphens=False)):
        yield f"{'' if place else name:<{_NAME}}{line}"


def _subject(preview: Preview) -> Iterator[tuple[str, str]]:
    """Model, data and budget."""
    yield "model", f"{preview.base_model} on {preview.device} in {preview.dtype}"
    columns = ", ".join(dict.fromkeys(filter(None, (*preview.inputs, preview.label))))
    sizes = ", ".join(
        f"{preview.split_sizes[name]:,} {name}" for name in _SPLITS if name in preview.split_sizes
    )
    yield "data", f"{preview.data}, columns {columns}; rows: {sizes}"
    yield "task", _task(preview.task)
    if preview.task.note:
        yield "", f"note: {preview.task.note}"
    yield "folder", preview.out or "a new one in reports/"
    yield (
        "budget",
        f"{preview.max_trainable_params:,} of {preview.base_params:,} parameters, head "
        f"{preview.head_params:,} beside it",
    )
    matched = ", ".join(f"{name} {n_sites}" for name, n_sites in preview.matched_sites.items())
    yield "sites", f"{preview.n_sites}; of these each method fits: {matched}"
    yield "methods", ", ".join(preview.methods)


def _n(number: int, noun: str) -> str:
    """A number with its noun in the singular or plural.

    Example:
        >>> _n(1, "step"), _n(2, "step")
        ('1 step', '2 steps')
    """
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _task(task: TaskFacts) -> str:
    """The task, its labels and its metric.

    Example:
        >>> from autopeft.commands import TaskFacts
        >>> _task(TaskFacts(name="a-task", kind="class", label_names=tuple("abcdefg"), label_range=None,
        ...                 metric="accuracy"))
        'a task, 7 classes: a, b, c, d, e and 2 more; accuracy'
    """
    if task.label_range is not None:
        low, high = task.label_range
        labels = f"numbers from {low:g} to {high:g}"
    else:
        labels = _LABELS.get(task.kind, task.kind).format(n=len(task.label_names))
        shown = [shortened(name, _LABEL_LENGTH) for name in task.label_names[:_SHOWN_LABELS]]
        n_more = len(task.label_names) - len(shown)
        labels += f": {', '.join(shown)}" if shown else ""
        labels += f" and {n_more} more" if n_more else ""
    return f"{task.name.replace('-', ' ')}, {labels}; {task.metric}"


def _work(preview: Preview) -> Iterator[tuple[str, str]]:
    """Short and full runs, and what the verdict can tell."""
    tried = ", ".join(dict.fromkeys(preview.first_plans))
    n_sampled = max(0, preview.trials - len(preview.first_plans))
    yield "first plans", tried
    short = f"{_n(preview.trials, 'short run')} of {_n(preview.short_steps, 'step')}"
    sampled = f", {n_sampled} proposed by Optuna" if n_sampled else ""
    yield "search", f"{short}{sampled}" if preview.trials else "no short runs"
    yield (
        "full runs",
        f"the best default and the best rival, {_n(preview.full_run_steps, 'step')}, "
        f"{_n(preview.seeds, 'seed')}; at most {preview.search_cost:.1f} R in all, finished weights included",
    )
    if preview.least_differences is not None:
        low, high = (f"{100 * difference:.1f}" for difference in preview.least_differences)
        groups = f" in {preview.n_confirm_groups:,} groups" if preview.n_confirm_groups else ""
        yield (
            "verdict",
            f"can tell plans apart that differ by {low} to {high} points or more, from "
            f"{preview.n_confirm:,} confirm examples{groups}",
        )


def _costs(forecast: Forecast | None) -> Iterator[tuple[str, str]]:
    """Time, memory and price."""
    if forecast is None:
        yield "time", "unknown: the baseline could not be trained for a few steps"
        return
    seconds = forecast.seconds
    low, expected, high = map(duration, (seconds.low, seconds.expected, seconds.high))
    is_limited = seconds.low == seconds.high
    span = f"{expected}, as limits shorten the search" if is_limited else f"{expected} ({low} to {high})"
    yield "time", f"{span}; R is {duration(forecast.full_run_seconds)}"
    if forecast.price is not None:
        price = forecast.price
        yield "price", f"{price.expected:,.2f} ({price.low:,.2f} to {price.high:,.2f})"
    yield (
        "memory",
        f"{memory(forecast.peak_bytes)} for a training step with {forecast.dearest}, the dearest method, "
        "weights included",
    )

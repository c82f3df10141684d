"""What `search`, `search --dry-run`, `report`, `analyze` and `try` print on stdout."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape

from autopeft.cli.printing import columns, lines_of, table
from autopeft.report import answer_of, enough_examples, full_rows, name_of
from autopeft.report.formatting import (
    NOTHING,
    difference,
    duration,
    interval,
    memory,
    metric,
    minuses,
    percent,
    plus_minus,
    share_words,
    significant,
)
from autopeft.types import counted, in_words_of, listed, quoted, resume_command, shortened, to_json

if TYPE_CHECKING:
    from autopeft.commands import Analysis, Preview, Reply
    from autopeft.commands.preview import TaskFacts
    from autopeft.report.table_rows import FullRow
    from autopeft.types import FullRun, SearchResult

_MAX_NAMES = 5  # target modules that are listed; heuristic
_SHOWN_LABELS, _LABEL_LENGTH = 5, 24  # labels, and characters of each; heuristic
# What the labels of each kind of target are; {n} counts them.
_LABELS = {
    "class": "{n} classes",
    "classes": "any of {n} labels",
    "tags": "{n} tags",
    "choice": "one of {n} answers",
    "completion": "texts to write",
    "chat": "the answers of chats",
    "documents": "all of the text",
}
_KEPT_SHARE = 0.1  # of all rows; if search and confirm have more, `--all-rows` is suggested; heuristic
_OPEN = {"darwin": "open", "win32": "start"}.get(sys.platform, "xdg-open")
_SPLITS = ("train", "search", "confirm", "test")


def console() -> Console:
    """Make a console for stdout: it uses styles and breaks lines on a terminal, and neither elsewhere."""
    return Console(highlight=False, soft_wrap=not sys.stdout.isatty())


def print_result(result: SearchResult, path: Path) -> None:
    """Print the plans that were trained in full, the answer, what it cost, and what to do next."""
    from autopeft.run.reporting import part_words  # heavy: it loads torch

    out, words = console(), part_words(result)
    rows = full_rows(result, words)
    headings, *lines = table(*_full_runs(rows, result), width=1_000)  # a line for each row
    out.print(f"\n{headings}", markup=False, soft_wrap=True)
    for row, line in zip(rows, lines, strict=True):
        out.print(line, markup=False, soft_wrap=True)
        for part in wrap(row.words, columns() - 2):
            out.print(f"  {part}", style="dim", markup=False)
    for step in result.sizes:
        plan, is_share = name_of(step.plan, result, words.labels), result.setting.metric_is_share
        budget = f"{share_words(step.share)} of the budget: {plan}, {step.plan.trainable_params:,} parameters"
        score = f"{result.setting.metric_words} {metric(step.metric_mean, is_share)} on confirm"
        lost = f"{difference(step.mean_difference, is_share)} ({interval(*step.interval_95, is_share)})"
        out.print(escape(f"{budget}, {score}, {lost} against the best plan"))
    answer = answer_of(result, words)
    out.print(f"\n[bold]{escape(answer.use)}[/bold]")
    for sentence in answer.sentences[1:]:
        out.print(escape(minuses(in_words_of(result.spec, sentence))))
    n_full, spent = result.cost.total_full_runs, duration(result.cost.total_seconds)
    in_r = "" if n_full is None else f", as long as {n_full:.1f} full runs of the default"
    out.print(f"The runs of the search took {spent} in all{in_r}.\n")
    for command in next_steps(result, path):  # each on one line to copy, however long
        out.print(f"  {command}", markup=False, soft_wrap=True)


def next_steps(result: SearchResult, path: Path) -> list[str]:
    """List commands: ask the adapter, open the report, push, train the plan on all rows.

    If the weights were deleted, the last command writes them again.
    """
    run, page, setting = quoted(str(path)), quoted(str(path / "report.html")), result.setting
    if not (path / "best" / "weights").is_dir():
        return [f"{_OPEN} {page}", resume_command(result.spec, path)]
    example = '"a text of yours"'
    if setting.task == "image-classification":
        example = "image.png"
    elif setting.label_kind not in ("completion", "chat") and len(setting.input_columns) > 1:
        example = " ".join('"a text"' for _ in setting.input_columns)
    steps = [f"autopeft try {run} {example}", f"{_OPEN} {page}", f"autopeft push {run} user/name"]
    splits = setting.splits
    is_named = not (result.spec.is_in_memory or result.spec.has_own_trainer)  # model and rows, for `train`
    if (
        result.refit is None
        and is_named
        and splits.confirm > _KEPT_SHARE * sum((splits.train, splits.search, splits.confirm))
    ):
        steps.append(f"autopeft train --plan {run} --all-rows")
    return steps if setting.label_kind else steps[1:]


def _full_runs(
    full: Sequence[FullRow], result: SearchResult
) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
    """Make headings, and a row for each plan that was trained in full; empty columns are left out."""
    is_share = result.setting.metric_is_share

    def score(record: FullRun | None) -> str:
        if record is None:
            return NOTHING
        return f"{metric(record.metric_mean, is_share)} {plus_minus(record.metric_std_error, is_share)}"

    rows = []
    for row in full:
        gap = NOTHING
        if row.difference is not None:
            mean, low, high = row.difference
            gain = difference(mean, is_share).removesuffix(" points")  # as the verdict says
            gap = f"{gain} ({interval(low, high, is_share)})"
        rows.append((row.mark, score(row.test), score(row.confirm), gap, f"{row.plan.trainable_params:,}"))
    by_column = zip(("plan", "test", "confirm", "difference", "parameters"), *rows, strict=True)
    headers, *filled = zip(*(each for each in by_column if set(each[1:]) != {NOTHING}), strict=True)
    return headers, filled


def reply_text(reply: Reply, *, is_alone: bool) -> str:
    """Write what a model answers: a label with its probability, a number, a tag a line, or a text.

    Example:
        >>> from autopeft.commands import Reply
        >>> probabilities = {"negative": 0.97, "positive": 0.03}
        >>> reply_text(Reply(input="Bad.", label="negative", probabilities=probabilities), is_alone=True)
        'negative 97 %'
    """
    shares = reply.probabilities or {}
    if reply.text is not None:
        answer = reply.text
    elif reply.tags:
        answer = "\n".join(f"{token}  {tag}" for token, tag in reply.tags)
    elif reply.number is not None:
        answer = significant(reply.number, 4)
    else:
        labels = (reply.label,) if reply.label is not None else reply.labels or ()
        answer = ", ".join(f"{label} {100 * shares[label]:.0f} %" for label in labels) or "none of the labels"
    return answer if is_alone else shortened(reply.input, 40) + (":\n" if "\n" in answer else ": ") + answer


def analysis_text(analysis: Analysis) -> str:
    """Format the highest targets of each score, whether examples sufficed, costs, and what to run next."""
    blocks = [[f"{analysis.base_model} on {analysis.data}: {len(analysis.targets)} target modules"]]
    for score in analysis.scores:
        sentences = [f"{score.name}: 0 at every target module, so that it does not order them"]
        if not score.is_zero:
            sentences = [f"{score.name}: {enough_examples(score)}"]
            total = math.fsum(score.values)
            by_value = sorted(zip(score.values, analysis.targets, strict=True), key=lambda pair: -pair[0])
            highest = [(value, target) for value, target in by_value[:_MAX_NAMES] if value]
            shares = [f"{target.name} {percent(100 * value / total)}" for value, target in highest]
            sentences.insert(0, f"{score.name}, highest: {', '.join(shares)}")
        blocks.append(lines_of(sentences))
    blocks.append([*lines_of(_cost_and_notes(analysis)), f"look for a plan: {analysis.search_command}"])
    blocks[-1] += analysis.files
    return "\n\n".join("\n".join(block) for block in blocks)


def _cost_and_notes(analysis: Analysis) -> Iterator[str]:
    sensitivity = analysis.sensitivity
    cost = [duration(sensitivity.seconds)]
    if sensitivity.peak_bytes:
        cost.append(f"{memory(sensitivity.peak_bytes)} at the peak")
    yield f"{sensitivity.n_examples:,} of {sensitivity.n_asked:,} examples, {', '.join(cost)}"
    if sensitivity.unreachable:
        n_targets, names = len(sensitivity.unreachable), listed(sensitivity.unreachable, _MAX_NAMES)
        yield f"no gradient reaches {n_targets} target modules, which have the score 0: {names}"
    for note in sensitivity.notes:
        yield f"note: {note}"


def analysis_json(analysis: Analysis) -> dict[str, Any]:
    """Turn an analysis into the plain values that `analyze --json` prints."""
    return {
        "base_model": analysis.base_model,
        "data": analysis.data,
        "task": analysis.spec.task.name,
        "n_train_examples": analysis.n_train,
        "targets": [to_json(target) for target in analysis.targets],
        **to_json(analysis.sensitivity),
        "search": analysis.search_command,
        "files": list(analysis.files),
    }


def preview_text(preview: Preview) -> str:
    """Write a preview for people in two columns, a topic and its facts, at most 80 characters wide."""
    rows = [*_subject(preview), *_work(preview), *_costs(preview)]
    rows += [("" if place else "derived", str(each)) for place, each in enumerate(preview.decisions)]
    lines = table((), rows, n_texts=2, width=columns())
    return "\n".join([*lines, "Nothing was trained and nothing was written."])


def _subject(preview: Preview) -> Iterator[tuple[str, str]]:
    """Write the rows on model, data and budget."""
    yield "model", f"{preview.base_model} on {preview.device} in {preview.dtype}"
    names = ", ".join(dict.fromkeys(filter(None, (*preview.inputs, preview.label))))
    sizes = ", ".join(
        f"{preview.split_sizes[split]:,} {split}" for split in _SPLITS if split in preview.split_sizes
    )
    yield "data", f"{preview.data}, columns {names}; rows: {sizes}"
    yield "task", _task(preview.task)
    yield "folder", preview.out or "a new one in reports/"
    yield (
        "budget",
        f"{preview.max_trainable_params:,} of {preview.base_params:,} parameters, head "
        f"{preview.head_params:,} in addition",
    )
    matched = ", ".join(f"{name} {n_targets}" for name, n_targets in preview.matched_targets.items())
    yield "targets", f"{preview.n_targets}; of these, each method fits: {matched}"
    yield "methods", ", ".join(preview.methods)


def _task(task: TaskFacts) -> str:
    """Write the task, its labels and its metric.

    Example:
        >>> from autopeft.commands.preview import TaskFacts
        >>> _task(TaskFacts(name="a-task", kind="class", label_names=tuple("abcdefg"), label_range=None,
        ...                 metric="accuracy"))
        'a task, 7 classes: a, b, c, d, e and 2 more; accuracy'
    """
    if task.label_range is not None:
        labels = "numbers from {} to {}".format(*(significant(end, 6) for end in task.label_range))
    else:
        labels = _LABELS.get(task.kind, task.kind).format(n=len(task.label_names))
        shown = [shortened(name, _LABEL_LENGTH) for name in task.label_names]
        labels += f": {listed(shown, _SHOWN_LABELS)}" if shown else ""
    return f"{task.name.replace('-', ' ')}, {labels}; {task.metric}"


def _work(preview: Preview) -> Iterator[tuple[str, str]]:
    """Write the rows on short runs, full runs, and the differences that the verdict can see."""
    yield "listed plans", ", ".join(dict.fromkeys(preview.listed_plans))
    n_sampled = max(0, preview.trials - len(preview.listed_plans))
    short = f"{counted(preview.trials, 'short run')} of {counted(preview.short_steps, 'step')}"
    sampled = f", {n_sampled} proposed by Optuna" if n_sampled else ""
    yield "search", f"{short}{sampled}" if preview.trials else "no short runs"
    yield (
        "full runs",
        f"the best default and the best challenger, {counted(preview.full_run_steps, 'step')}, "
        f"{counted(preview.seeds, 'seed')}; at most {preview.search_cost:.1f} R in all, finished weights "
        "included",
    )
    if preview.least_differences is not None:
        low, high = (f"{100 * share:.1f}" for share in preview.least_differences)
        groups = f" in {preview.n_confirm_groups:,} groups" if preview.n_confirm_groups else ""
        yield (
            "verdict",
            f"shows differences of {low} to {high} points at least, with {preview.n_confirm:,} confirm "
            f"examples{groups}",
        )


def _costs(preview: Preview) -> Iterator[tuple[str, str]]:
    """Write the rows on time, memory and price."""
    forecast = preview.forecast
    if forecast is None:
        yield "time", "unknown: the baseline could not be trained for a few steps"
        return
    seconds = forecast.seconds
    low, expected, high = map(duration, (seconds.low, seconds.expected, seconds.high))
    is_limited = seconds.low == seconds.high
    span = f"{expected}, as limits shorten the search" if is_limited else f"{expected} ({low} to {high})"
    yield "time", f"{span}; R is {duration(forecast.full_run_seconds)}"
    if (n_steps := forecast.steps_in_time) is not None:
        fitting = f"; --max-steps {n_steps} would end in time" if n_steps else ""
        yield "", f"a full run alone takes longer than --max-time, which never cuts it{fitting}"
    if forecast.price is not None:
        price = forecast.price
        yield "price", f"{price.expected:,.2f} ({price.low:,.2f} to {price.high:,.2f})"
    yield (
        "memory",
        f"{memory(forecast.peak_bytes)} for a training step with {forecast.dearest}, which takes the most, "
        "weights included",
    )

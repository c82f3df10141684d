"""What `search`, `search --dry-run`, `report`, `analyze` and `try` print on stdout."""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any

import typer

from autopeft.cli.printing import blocks_text, columns, lines_of, table
from autopeft.errors import SpecError
from autopeft.report import answer_of, enough_examples, full_rows, name_of
from autopeft.report.formatting import (
    NOTHING,
    difference,
    duration,
    interval,
    learning_rate,
    memory,
    metric,
    minuses,
    percent,
    plus_minus,
    share_words,
    significant,
)
from autopeft.types import counted, listed, quoted, resume_command, shortened, to_json

if TYPE_CHECKING:
    from autopeft.commands import Analysis, Preview, Reply
    from autopeft.commands.forecast import SearchTime
    from autopeft.report.table_rows import FullRow
    from autopeft.types import FullRun, SearchResult

_MAX_NAMES = 5  # target modules that are listed; heuristic
_SHOWN_LABELS, _LABEL_LENGTH = 5, 24  # labels, and characters of each; heuristic
_OPEN = {"darwin": "open", "win32": "start"}.get(sys.platform, "xdg-open")
_SPLITS = ("train", "search", "confirm", "test")


def result_text(result: SearchResult, path: Path) -> str:
    """Format the plans that were trained in full, the answer, what it cost, and what to do next."""
    from autopeft.report.part_words import part_words  # heavy: it loads torch

    words = part_words(result)
    rows = full_rows(result, words)
    headings, *lines = table(*_full_runs(rows, result), width=1_000)  # a line for each row
    runs = [headings]
    n_alike = Counter(row.words for row in rows)
    for row, line in zip(rows, lines, strict=True):
        rate = f", learning rate {learning_rate(row.learning_rate)}" if n_alike[row.words] > 1 else ""
        runs += [line, *(f"  {part}" for part in wrap(row.words + rate, columns() - 2))]
    answer, is_share = answer_of(result, words), result.setting.metric_is_share
    for step in result.sizes:
        plan = name_of(step.plan, result, words.labels)
        budget = f"{share_words(step.share)} of the budget: {plan}, {step.plan.trainable_params:,} parameters"
        score = f"{result.setting.metric_words} {metric(step.metric_mean, is_share)} on confirm"
        lost = f"{difference(step.mean_difference, is_share)} ({interval(*step.interval_95, is_share)})"
        runs += lines_of([f"{budget}, {score}, {lost} against the best plan"])
    n_full, spent = result.cost.total_full_runs, duration(result.cost.total_seconds)
    in_r = "" if n_full is None else f", the time of {n_full:.1f} full runs of the default"
    sentences = [answer.use, *map(minuses, answer.sentences[1:])]
    return "\n" + blocks_text(
        runs,
        lines_of([*sentences, f"The runs of the search took {spent} in all{in_r}."]),
        [f"  {command}" for command in next_steps(result, path)],  # each on one line to copy, however long
    )


def next_steps(result: SearchResult, path: Path) -> list[str]:
    """List commands: ask the adapter, open the report, push; or write deleted weights again."""
    run, page, setting = quoted(str(path)), quoted(str(path / "report.html")), result.setting
    if not (path / "best" / "weights").is_dir():
        return [f"{_OPEN} {page}", resume_command(result.spec, path)]
    n_texts = 1 if setting.label_kind in ("completion", "chat") else max(1, len(setting.input_columns))
    is_image = setting.task == "image-classification"
    example = "image.png" if is_image else " ".join(['"a text"'] * n_texts)
    steps = [f"autopeft try {run} {example}", f"{_OPEN} {page}", f"autopeft push {run} user/name"]
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
    """Write what a model answers: a label with its probability, a number, a tag a line, or a text."""
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
            total = math.fsum(score.values)
            by_value = sorted(zip(score.values, analysis.targets, strict=True), key=lambda pair: -pair[0])
            highest = [(value, target) for value, target in by_value[:_MAX_NAMES] if value]
            shares = [f"{target.name} {percent(100 * value / total)}" for value, target in highest]
            sentences = [
                f"{score.name}, highest: {', '.join(shares)}",
                f"{score.name}: {enough_examples(score)}",
            ]
        blocks.append(lines_of(sentences))
    sensitivity = analysis.sensitivity
    used = f"{sensitivity.n_examples:,} of {sensitivity.n_asked:,} examples"
    notes = [f"{used}, {duration(sensitivity.seconds)}, {memory(sensitivity.peak_bytes)} at the peak"]
    if sensitivity.unreachable:
        names = listed(sensitivity.unreachable, _MAX_NAMES)
        notes.append(f"no gradient reaches {len(sensitivity.unreachable)} target modules (score 0): {names}")
    notes += [f"note: {note}" for note in sensitivity.notes]
    if analysis.routing:
        rows = []
        for name, counts in analysis.routing.items():  # a quarter of equal experts gets 25 %
            busiest = sorted(counts, reverse=True)[: max(1, round(len(counts) / 4))]
            share = percent(100 * sum(busiest) / max(1, sum(counts)))
            rows.append((name, f"{len(counts)}", share, f"{counts.count(0)}"))
        blocks.append(table(("experts", "number", "most routed quarter", "never routed"), rows))
    return blocks_text(*blocks, [*lines_of(notes), *analysis.files])


def analysis_json(analysis: Analysis) -> dict[str, Any]:
    """Turn an analysis into the plain values that `analyze --json` prints."""
    return {
        "base_model": analysis.base_model,
        "data": analysis.data,
        "task": analysis.spec.task.name,
        "n_train_examples": analysis.n_train,
        "targets": [to_json(target) for target in analysis.targets],
        **to_json(analysis.sensitivity),
        "routing": dict(analysis.routing),
        "files": list(analysis.files),
    }


def preview_text(preview: Preview) -> str:
    """Format a preview in two columns, a topic and its facts, at most 80 characters wide."""
    rows = [*_subject(preview), *_work(preview)]
    decisions = preview.setting.decisions
    rows += [("" if place else "derived", str(each)) for place, each in enumerate(decisions)]
    lines = table((), rows, n_texts=2, width=columns())
    return "\n".join([*lines, "Nothing was trained and nothing was written."])


def _subject(preview: Preview) -> Iterator[tuple[str, str]]:
    """Write the rows on model, data and budget."""
    setting, budget = preview.setting, preview.setting.budget
    yield "model", f"{setting.base_model} on {preview.device} in {preview.dtype}"
    names = ", ".join(dict.fromkeys(filter(None, (*setting.input_columns, preview.label))))
    sizes = ", ".join(f"{getattr(setting.splits, split):,} {split}" for split in _SPLITS)
    yield "data", f"{setting.data}, columns {names}; rows: {sizes}"
    shown = [shortened(name, _LABEL_LENGTH) for name in setting.label_names]
    labels = f"; {counted(len(shown), 'label')}: {listed(shown, _SHOWN_LABELS)}" if shown else ""
    yield "task", f"{setting.task}, {setting.metric_words}{labels}"
    yield "folder", preview.out or "a new one in reports/"
    yield (
        "budget",
        f"{budget.max_trainable_params:,} of {budget.base_params:,} parameters, head "
        f"{setting.head_params:,} in addition",
    )
    yield "methods", ", ".join(preview.methods)


def _work(preview: Preview) -> Iterator[tuple[str, str]]:
    """Write the rows on short and full runs, on what the verdict can see, and on time and memory."""
    yield "listed plans", ", ".join(dict.fromkeys(preview.listed_plans))
    n_sampled = max(0, preview.trials - len(preview.listed_plans))
    short = f"{counted(preview.trials, 'short run')} of {counted(preview.short_steps, 'step')}"
    yield "search", f"{short}, {n_sampled} proposed by Optuna" if preview.trials else "no short runs"
    yield (
        "full runs",
        f"the best default and the best of the others, {counted(preview.setting.full_run_steps, 'step')}, "
        f"{counted(preview.seeds, 'seed')}; at most {preview.search_cost:.1f} R in all, finished weights "
        "included",
    )
    if preview.least_differences is not None:
        low, high = (f"{100 * share:.1f}" for share in preview.least_differences)
        n_groups = preview.setting.splits.confirm_groups
        groups = f" in {n_groups:,} groups" if n_groups else ""
        yield (
            "verdict",
            f"smallest detectable difference {low} to {high} points, with {preview.n_confirm:,} confirm "
            f"examples{groups}",
        )
    if (forecast := preview.forecast) is None:
        yield "time", "unknown: the baseline could not be trained for a few steps"
        return
    yield "time", str(forecast)
    yield "memory", f"{memory(forecast.peak_bytes)} for a training step with {forecast.dearest}"


def confirm_long_search(time: SearchTime, *, yes: bool) -> None:
    """Ask whether to start a search of more than 8 hours; raise SpecError if the answer is not yes.

    Where nobody can answer, `--yes` is the answer.
    """
    if yes or not time.is_long:
        return
    hours = duration(time.seconds.expected)
    is_terminal = sys.stdin.isatty() and sys.stderr.isatty()
    if not (is_terminal and typer.confirm(f"Start a search of about {hours}?", err=True)):
        raise SpecError(
            f"The search would take about {hours}. Pass --yes to start it. Or search with --max-steps "
            f"{time.fitting_steps}, and train the result in full: `autopeft train --plan RUN --epochs N`."
        )

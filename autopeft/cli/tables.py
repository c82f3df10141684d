"""What `search`, `report` and the lists print on stdout."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from autopeft.records import confirm_command, in_words_of, resume_command, train_command
from autopeft.report import (
    PartWords,
    answer_of,
    confirm_steps,
    edge_sentence,
    error_over,
    rate_words,
    summary_of,
)
from autopeft.report.words import NOTHING, duration, megabytes, memory, metric, minuses, plus_minus

if TYPE_CHECKING:
    from autopeft.records import Confirmation, Cost, SearchResult
_LEAST_NAME = 12  # columns for the names of plans, in which most of their words fit; chosen by hand
_GAP = 2  # columns between two columns of a table


def console() -> Console:
    """Standard output: colours and lines broken between words on a terminal, neither elsewhere."""
    return Console(highlight=False, soft_wrap=not sys.stdout.isatty())


def print_result(result: SearchResult, path: Path) -> None:
    """Print the answer in plain words, the named plans, what else is known, and where the files are."""
    from autopeft.pipeline import part_words  # heavy: it loads torch

    out, words = console(), part_words(result)
    answer = answer_of(result, words)
    if out.is_terminal:
        out.print()  # apart from the lines of the progress
    out.print(f"[bold]{escape(answer.title)}[/bold]")
    for sentence in answer.aside:
        out.print(escape(sentence))
    out.print()
    for (_, sentences), name in zip(answer.sections, ("use", "cost", "sure"), strict=True):
        out.print(_beside(name, " ".join(sentences)))
    out.print()
    headers, rows = _summary_rows(result, words)
    n_shown, gap = _fitting(headers, rows)
    out.print(_table(headers[:n_shown], [row[:n_shown] for row in rows], gap=gap))
    for sentence in _below(result, shown=headers[:n_shown], left_out=headers[n_shown:]):
        out.print(f"[dim]{sentence}[/dim]")
    out.print()
    for sentence in _evidence(result):
        out.print(escape(minuses(in_words_of(result.spec, sentence))))
    _print_files(result, out, path)


def _beside(name: str, text: str) -> Table:
    """A word and a paragraph beside it."""
    table = Table.grid(padding=(0, 1))
    table.add_column(width=4)
    table.add_column()
    table.add_row(f"[dim]{name}[/dim]", escape(text))
    return table


def _summary_rows(result: SearchResult, words: PartWords) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
    """Headings and rows: baseline, best, smallest and head alone."""
    is_share = words.metric_is_share

    def score(record: Confirmation | None) -> str:
        if record is None:
            return NOTHING
        return f"{metric(record.metric_mean, is_share)} {plus_minus(record.metric_std_error, is_share)}"

    rows = [
        (
            row.joined_marks
            if row.name == row.joined_marks
            else f"{row.joined_marks}\n[dim]{escape(row.name)}[/dim]",
            score(row.test),
            score(row.confirm),
            f"{row.plan.trainable_params:,}",
            megabytes(row.megabytes),
            memory(row.peak_bytes),
            NOTHING if row.seconds is None else duration(row.seconds),
        )
        for row in summary_of(result, words)
    ]
    columns = zip(("plan", "test", "confirm", "parameters", "MB", "memory", "time"), *rows, strict=True)
    known = [column for column in columns if set(column[1:]) != {NOTHING}]  # no test split, no confirmation
    headers, *shown = zip(*known, strict=True)
    return headers, shown


def _below(result: SearchResult, *, shown: Sequence[str], left_out: Sequence[str]) -> Iterator[str]:
    """What the numbers of the table are, and which the terminal has no room for."""
    head, steps = result.setting.head_params, confirm_steps(result)
    if steps is not None and {"test", "confirm"} & {*shown}:
        time = f"; time is that of {steps:,} steps" if "time" in shown else ""
        yield f"± is one standard error over {error_over(result)}{time}."
    if left_out:
        yield f"No room for {' and '.join(left_out)}: widen the terminal, or read the report."
    if head and "parameters" in shown:
        yield f"Parameters are those of the adapters; every plan trains the head's {head:,} too."


def _evidence(result: SearchResult) -> Iterator[str]:
    """The verdict in the words of statistics, and what was seen beside it, one fact a sentence."""
    yield result.verdict.sentence
    yield from filter(None, (*result.sentences, edge_sentence(result)))
    budget, cost, rho = result.setting.budget, result.cost, result.proxy.rank_correlation
    yield (
        f"Budget {budget.requested} = {budget.max_trainable_params:,} parameters. "
        f"Learning rate {rate_words(result.best, result)}."
    )
    agreement = "not measured" if rho is None else f"{rho:.2f} over {result.proxy.n_plans} plans"
    total = "" if cost.total_full_runs is None else f", all together {cost.total_full_runs:.1f} R"
    clock = " by the clock (--max-cost counts steps)" if total else ""
    yield (
        f"Search {_in_full_runs(cost)}, confirmation {cost.confirm_seconds:.0f} s{total}{clock}; "
        f"rank correlation between the rungs {agreement}."
    )


def _print_files(result: SearchResult, out: Console, path: Path) -> None:
    """Print where the files are, each on one line to copy, however long."""
    plan, weights = path / "best" / "plan.yaml", path / "best" / "weights"
    lines = [f"report  {path / 'report.html'}"]
    if plan.is_file():
        lines.append(f"plan    {plan}")
        lines += [f"weights {weights}"] if weights.is_dir() else []
        verb = "in full" if result.verdict.fidelity == "half" else "again"
        verb = "attach" if result.spec.is_in_memory else verb  # the command attaches the plan, trains nothing
        lines.append(f"{verb:<7} {train_command(plan, result.spec.model, result.spec.data)}")
    else:
        lines.append(f"plan    deleted; written again by {resume_command(result.spec, path)}")
    if result.verdict.label == "none":
        lines.append(f"confirm {confirm_command(result.spec, path / 'run.yaml')}")
    out.print("\n" + "\n".join(lines), markup=False, soft_wrap=True)


def print_several(paths: Sequence[Path], results: Sequence[SearchResult], page: Path) -> None:
    """Print the answer of each run in one sentence, and where the page is."""
    from autopeft.pipeline import part_words

    out = console()
    for path, result in zip(paths, results, strict=True):
        title = answer_of(result, part_words(result)).title
        out.print(f"[bold]{escape(str(path))}[/bold]: {escape(title)}")
    out.print(f"\nreport  {page}", markup=False, soft_wrap=True)


def _in_full_runs(cost: Cost) -> str:
    """The cost of the search in seconds, and in full runs (R) where a plan was trained."""
    seconds = f"{cost.sensitivity_seconds + cost.search_seconds:.0f} s"
    if cost.full_runs is None or cost.full_run_seconds is None:
        return seconds
    return f"{cost.full_runs:.1f} R ({seconds}; R = {duration(cost.full_run_seconds)})"


def _fitting(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> tuple[int, int]:
    """How many columns the console has room for, and the gap between them.

    Where all would fit but for the gaps, these are narrower. Names may be broken between words; columns of
    numbers that do not fit are left out, the last ones first, since a part of a number would read as another.
    """
    widths = [
        max(len(line) for cell in cells for line in _plain(cell).split("\n"))
        for cells in zip(headers, *rows, strict=True)
    ]
    width = console().width
    gap = next((gap for gap in (_GAP, 1) if sum(widths) + gap * (len(widths) - 1) <= width), _GAP)
    widths[0] = min(widths[0], _LEAST_NAME)
    fits = [sum(widths[:n]) + gap * (n - 1) <= width for n in range(1, len(widths) + 1)]
    return max(1, sum(fits)), gap


def _plain(cell: str) -> str:
    return Text.from_markup(cell).plain


def _table(headers: Sequence[str], rows: Iterable[Sequence[str]], *, gap: int = _GAP) -> Table:
    """A table without lines: the names of plans to the left, numbers to the right."""
    table = Table(box=None, pad_edge=False, padding=(0, gap, 0, 0))
    for header in headers:
        is_name = header == "plan"
        table.add_column(header, justify="left" if is_name else "right", no_wrap=not is_name)
    for row in rows:
        table.add_row(*row)
    return table

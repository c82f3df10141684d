"""What `search`, `report`, `analyze` and the lists print on stdout."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from autopeft.cli.counts import size
from autopeft.cli.printing import columns
from autopeft.extension import discover
from autopeft.records import (
    SEEN_ENOUGH,
    Site,
    SiteScores,
    in_words_of,
    rate,
    resume_command,
    to_json,
    train_command,
)
from autopeft.report import PartWords, answer_of, full_rows, no_adapters, plan_words, seen_enough
from autopeft.report.words import (
    NOTHING,
    difference,
    duration,
    interval,
    metric,
    minuses,
    percent,
    plus_minus,
    share_words,
)

if TYPE_CHECKING:
    from autopeft.commands import Analysis
    from autopeft.records import FullRun, SearchResult

_LEAST_NAME = 12  # columns for the names of plans, in which most of their words fit; chosen by hand
_GAP = 2  # columns between two columns of a table
_MAX_NAMES = 5  # sites that are named, chosen by hand
_MAX_FACTOR = 16.0  # chosen by hand: the most by which the number of examples is raised


def console() -> Console:
    """Standard output: colours and lines broken between words on a terminal, neither elsewhere."""
    return Console(highlight=False, soft_wrap=not sys.stdout.isatty())


def print_result(result: SearchResult, path: Path) -> None:
    """Print the answer, the plans that were trained in full, what it cost, and where the files are."""
    from autopeft.commands import part_words  # heavy: it loads torch

    out, words = console(), part_words(result)
    answer = answer_of(result, words)
    if out.is_terminal:
        out.print()  # apart from the lines of the progress
    out.print(f"[bold]{escape(answer.headline)}[/bold]")
    for sentence in filter(None, (answer.verdict, answer.longer, *result.sentences)):
        out.print(escape(minuses(in_words_of(result.spec, sentence))))
    out.print()
    headers, rows = _full_runs(result, words)
    n_shown, gap = _fitting(headers, rows)
    out.print(_table(headers[:n_shown], [row[:n_shown] for row in rows], gap=gap))
    if n_shown < len(headers):
        out.print(f"[dim]No room for {' and '.join(headers[n_shown:])}: see the report.[/dim]")
    for step in result.sizes:
        plan, is_share = plan_words(step.plan, result.sites, words.labels), words.metric_is_share
        budget = f"{share_words(step.share)} of the budget: {plan}, {step.plan.trainable_params:,} parameters"
        score = f"{result.setting.metric_words} {metric(step.metric_mean, is_share)} on confirm"
        lost = f"{difference(step.mean_difference, is_share)} ({interval(*step.interval_95, is_share)})"
        out.print(escape(f"\n{budget}, {score}, {lost} against the best plan"))
    cost = result.cost
    in_r = "" if cost.total_full_runs is None else f", {cost.total_full_runs:.1f} full runs of the default"
    out.print(f"\ncost    {duration(cost.total_seconds)}{in_r}")
    _print_files(result, out, path)


def _full_runs(result: SearchResult, words: PartWords) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
    """Headings and rows: the plans that were trained in full, without columns that are empty."""
    is_share, head = words.metric_is_share, no_adapters(result)

    def score(record: FullRun | None) -> str:
        if record is None:
            return NOTHING
        return f"{metric(record.metric_mean, is_share)} {plus_minus(record.metric_std_error, is_share)}"

    rows = []
    for row in full_rows(result):
        name = escape(plan_words(row.plan, result.sites, words.labels, head=head))
        gap = NOTHING
        if row.difference is not None:
            mean, low, high = row.difference
            gain = difference(mean, is_share).removesuffix(" points")  # as the verdict above says
            gap = f"{gain} ({interval(low, high, is_share)})"
        size_of_plan = f"{row.plan.trainable_params:,}"
        rows.append(
            (f"{row.mark}\n[dim]{name}[/dim]", score(row.test), score(row.confirm), gap, size_of_plan)
        )
    named = zip(("plan", "test", "confirm", "difference", "parameters"), *rows, strict=True)
    headers, *shown = zip(*(column for column in named if set(column[1:]) != {NOTHING}), strict=True)
    return headers, shown


def _print_files(result: SearchResult, out: Console, path: Path) -> None:
    """Print where the files are, each on one line to copy, however long."""
    plan, weights = path / "best" / "plan.yaml", path / "best" / "weights"
    lines = [f"report  {path / 'report.html'}"]
    if plan.is_file():
        lines += [f"weights {weights}"] if weights.is_dir() else []
        lines.append(f"plan    {plan}")
    else:
        lines.append(f"plan    deleted; written again by {resume_command(result.spec, path)}")
    out.print("\n".join(lines), markup=False, soft_wrap=True)


def print_several(paths: Sequence[Path], results: Sequence[SearchResult], page: Path) -> None:
    """Print the answer of each run in one sentence, and where the page is."""
    from autopeft.commands import part_words

    out = console()
    for path, result in zip(paths, results, strict=True):
        headline = answer_of(result, part_words(result)).headline
        out.print(f"[bold]{escape(str(path))}[/bold]: {escape(headline)}")
    out.print(f"\nreport  {page}", markup=False, soft_wrap=True)


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


def print_analysis(analysis: Analysis) -> None:
    """Print the chief modules of every score, whether it saw enough examples, the cost, and the plan."""
    out = console()
    n_sites = len(analysis.sites)
    out.print(f"{analysis.base_model} on {analysis.data}: {n_sites} sites", markup=False)
    for score in analysis.scores:
        out.print()
        if not score.is_zero:
            _print_wrapped(out, _chief(analysis.sites, score))
        _print_wrapped(out, f"{score.name}: {_enough(score, n_train=analysis.n_train)}")
    out.print()
    for paragraph in (*_cost_and_notes(analysis), *_suggestion(analysis)):
        _print_wrapped(out, paragraph)
    for file in analysis.files:
        out.print(file, markup=False)


def analysis_json(analysis: Analysis) -> dict[str, Any]:
    """The whole analysis as plain values, as `analyze --json` prints it."""
    plan = analysis.suggestion.plan
    budget = analysis.budget
    return {
        "base_model": analysis.base_model,
        "data": analysis.data,
        "task": analysis.spec.task.name,
        "n_train_examples": analysis.n_train,
        "sites": [to_json(site) for site in analysis.sites],
        **to_json(analysis.sensitivity),
        "budget": to_json(budget),
        "suggestion": {
            "tested": False,
            "score": analysis.scores[0].name,
            "plan": to_json(plan),
            "plan_id": plan.digest,
            "trainable_params": plan.trainable_params,
            "head_params": analysis.suggestion.head_params,
            "share_of_base": plan.trainable_params / budget.base_params,
            "search": analysis.search_command,
        },
        "files": list(analysis.files),
    }


def _chief(sites: Sequence[Site], score: SiteScores) -> str:
    """The sites of the highest score, with their shares of all."""
    total = math.fsum(score.values)
    ordered = sorted(zip(score.values, sites, strict=True), key=lambda pair: -pair[0])[:_MAX_NAMES]
    named = (f"{site.name} {percent(100 * value / total)}" for value, site in ordered if value)
    return f"{score.name}, highest: {', '.join(named)}"


def _enough(score: SiteScores, *, n_train: int) -> str:
    """Whether the score saw enough examples, else how many to ask for."""
    verdict = "0 at every site, so that it tells none apart" if score.is_zero else seen_enough(score)
    rho = score.split_half
    if score.is_zero or not score.n_examples or rho is None or not rho < SEEN_ENOUGH:
        return verdict
    if score.n_examples >= n_train:
        return f"{verdict}, and the train split has no more"
    return f"{verdict}; pass --max-examples {min(n_train, _needed(rho, score.n_examples))}"


def _needed(rho: float, n_examples: int) -> int:
    """Examples with which two halves should agree by 0.95: a power of two, 2 to 16 times as many as now.

    Source:
        Spearman 1910 and Brown 1910, British Journal of Psychology 3: a test k times as long has the
        reliability k r / (1 + (k - 1) r). It is derived for Pearson's correlation, so a rough guide here.
    """
    factor = _MAX_FACTOR if rho <= 0 else SEEN_ENOUGH * (1 - rho) / ((1 - SEEN_ENOUGH) * rho)
    return int(2 ** math.ceil(math.log2(n_examples * min(_MAX_FACTOR, max(2.0, factor)))))


def _cost_and_notes(analysis: Analysis) -> Iterator[str]:
    sensitivity = analysis.sensitivity
    yield (
        f"{sensitivity.n_examples:,} of {sensitivity.n_asked:,} examples, {duration(sensitivity.seconds)}, "
        f"{size(sensitivity.peak_bytes)} at the peak"
    )
    if sensitivity.unreachable:
        n_sites = len(sensitivity.unreachable)
        names = ", ".join(sensitivity.unreachable[:_MAX_NAMES])
        more = f" and {n_sites - _MAX_NAMES} more" if n_sites > _MAX_NAMES else ""
        yield f"no gradient reaches {n_sites} sites, which have the score 0: {names}{more}"
    for note in sensitivity.notes:
        yield f"note: {note}"


def _suggestion(analysis: Analysis) -> Iterator[str]:
    plan, budget = analysis.suggestion.plan, analysis.budget
    share = 100 * plan.trainable_params / budget.base_params
    labels = {method.name: method.label for method in discover("autopeft.methods").values()}
    first = analysis.scores[0]
    basis = f"without a score ({first.name} tells nothing)" if first.is_zero else f"by {first.name}"
    yield (
        f"suggestion {basis}, untested: {plan_words(plan, analysis.sites, labels)}, "
        f"{plan.trainable_params:,} parameters ({percent(share)}), learning rate {rate(plan.learning_rate)}"
    )
    if analysis.files:
        command = train_command(Path(analysis.files[-1]), analysis.spec.model, analysis.spec.data)
        yield f"test it: {command}"
    yield f"look for more: {analysis.search_command}"


def _print_wrapped(out: Console, paragraph: str) -> None:
    """Print lines of at most 80 columns; a longer word, such as a path, and a command stay in one line."""
    width = sys.maxsize if "autopeft " in paragraph else columns()
    kept_together = paragraph.replace(" %", "\N{NO-BREAK SPACE}%")
    for line in wrap(kept_together, width, break_long_words=False, break_on_hyphens=False):
        out.print(line.replace("\N{NO-BREAK SPACE}", " "), markup=False)

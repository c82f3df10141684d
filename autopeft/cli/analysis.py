"""What `analyze` prints: the chief modules of each score, whether enough was seen, the suggested plan."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from rich.console import Console

from autopeft.cli.counts import size
from autopeft.cli.printing import columns
from autopeft.cli.tables import console
from autopeft.extension import discover
from autopeft.records import SEEN_ENOUGH, Site, SiteScores, rate, to_json, train_command
from autopeft.report import seen_enough
from autopeft.report.words import duration, percent, plan_words

if TYPE_CHECKING:
    from autopeft.pipeline import Analysis

_MAX_NAMES = 5  # sites that are named, chosen by hand
_MAX_FACTOR = 16.0  # chosen by hand: the most by which the number of examples is raised


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
        f"suggestion {basis}, untested: {plan_words(plan, labels)}, "
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

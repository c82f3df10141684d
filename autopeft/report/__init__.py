"""A search's result as files: report.html and report.md for people, the rest for programs.

Everything but `write` is a pure function of the result. The layout is in `templates/`.

Inside the folder each file imports only from those before it:
words, maps, usage → helped, forgetting, heat → tables → view.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from autopeft.records import SearchResult
from autopeft.report import forgetting, helped, maps, usage, view, words
from autopeft.report.forgetting import forgetting_json, forgetting_line
from autopeft.report.heat import heat_svg, seen_enough
from autopeft.report.helped import did_it_help
from autopeft.report.tables import arm_names, effective_ranks, result_json, sensitivity_csv, trials_csv
from autopeft.report.words import PartWords
from autopeft.store import write_text

__all__ = [
    "PartWords",
    "did_it_help",
    "effective_ranks",
    "forgetting_json",
    "forgetting_line",
    "heat_svg",
    "report_html",
    "report_md",
    "result_json",
    "seen_enough",
    "sensitivity_csv",
    "trials_csv",
    "write",
]

_FILTERS: dict[str, Callable[..., str]] = {
    "change": forgetting.change,
    "agreement": words.agreement,
    "rhos": words.rhos,
    "count": words.count,
    "difference": words.difference,
    "duration": words.duration,
    "first_line": view.first_line,
    "gain": helped.gain,
    "loss": words.loss,
    "metric": words.metric,
    "percent": words.percent,
    "plus_minus": words.plus_minus,
    "rate": words.rate,
    "shell_word": shlex.quote,
}


def write(result: SearchResult, out: Path, *, words: PartWords, status: str = "complete") -> None:
    """Write the report and its tables into a run directory, each file atomically.

    Args:
        result: A finished or stopped search.
        out: The run directory.
        words: Names of methods and the class of the base model, for people.
        status: How the run ended; anything but `complete` is shown on top of the report.
    """
    write_text(out / "trials.csv", trials_csv(result))
    write_text(out / "sensitivity.csv", sensitivity_csv(result.sites, result.scores))
    write_text(out / "report.md", report_md(result, words=words, status=status))
    write_text(out / "report.html", report_html(result, words=words, status=status))
    # Last, so that whoever finds the answer finds the rest too.
    answer = json.dumps(result_json(result, status), indent=2, ensure_ascii=False, allow_nan=False)
    write_text(out / "result.json", answer + "\n")


def report_html(result: SearchResult, *, words: PartWords, status: str = "complete") -> str:
    """One self-contained HTML page: no script, nothing loaded from elsewhere, all names escaped."""
    return _environment("html").get_template("report.html.j2").render(_context(result, words, status))


def report_md(result: SearchResult, *, words: PartWords, status: str = "complete") -> str:
    """The same report in GitHub's Markdown."""
    return _environment("md").get_template("report.md.j2").render(_context(result, words, status))


def _context(result: SearchResult, part_words: PartWords, status: str) -> dict[str, Any]:
    answer = result_json(result, status)
    arms = arm_names(result)
    smallest_title, smallest_note = view.smallest_words(result)
    return {
        "result": result,
        "setting": result.setting,
        "is_share": part_words.metric_is_share,
        "status": status,
        "answer": answer,
        "plan_words": partial(words.plan_words, labels=part_words.labels),
        "bars": view.bars(result),
        "interval": view.interval(result),
        "confirmed": view.confirmed(result, arms),
        "proxies": view.proxies(result, arms),
        "failures": view.failures(result, arms),
        "max_rows": view.MAX_ROWS,
        "rank_map": maps.rank_map(result.sites, result.best, part_words.short_labels),
        "score_maps": maps.score_maps(result),
        "seen": {score.name: seen_enough(score) for score in result.scores},
        "helped": did_it_help(result),
        "scoring": view.scoring(result),
        "smallest_title": smallest_title,
        "smallest_note": smallest_note,
        "tests": view.tests(answer),
        "forgot": forgetting.forgot(result.forgetting),
        "costs": view.costs(result),
        "confirm_steps": view.confirm_steps(result),
        "python_lines": usage.python_lines(result, part_words.auto_class),
        "settings": view.settings(result),
    }


@cache
def _environment(kind: str) -> Environment:
    environment = Environment(
        loader=PackageLoader("autopeft", "templates"),
        autoescape=kind == "html",
        finalize=_escape_markdown if kind == "md" else None,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(_FILTERS)
    return environment


def _escape_markdown(value: Any) -> Any:
    """Text that opens no tag, link, table cell or code span; values marked `safe` stay as they are."""
    if isinstance(value, Markup):
        return value
    text = " ".join(str(value).split("\n"))
    for special, escaped in (("<", "&lt;"), ("|", "\\|"), ("`", "\\`"), ("](", "]\\("), ("*", "\\*")):
        text = text.replace(special, escaped)
    return text

"""A search's result as files: report.html and report.md for people, the rest for programs.

Everything but `write` is a pure function of the result. The layout is in `templates/`.

Inside the folder each file imports only from those before it:
words, maps → rendering, helped, forgetting, positions → heat, usage, tables → view, card →
summary.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

from autopeft.records import SearchResult
from autopeft.report import forgetting, maps, usage, view
from autopeft.report.card import CardFacts, hub_id, model_card
from autopeft.report.forgetting import forgetting_json, forgetting_line
from autopeft.report.heat import heat_svg, seen_enough
from autopeft.report.helped import did_it_help
from autopeft.report.positions import edge_sentence, rate_words
from autopeft.report.rendering import render
from autopeft.report.summary import leaderboard, short_html, short_text
from autopeft.report.tables import arm_names, effective_ranks, result_json, sensitivity_csv, trials_csv
from autopeft.report.words import PartWords, plan_words
from autopeft.store import write_text

__all__ = [
    "CardFacts",
    "PartWords",
    "did_it_help",
    "edge_sentence",
    "effective_ranks",
    "forgetting_json",
    "forgetting_line",
    "heat_svg",
    "hub_id",
    "leaderboard",
    "model_card",
    "rate_words",
    "report_html",
    "report_md",
    "result_json",
    "seen_enough",
    "sensitivity_csv",
    "short_html",
    "short_text",
    "trials_csv",
    "write",
]


def write(result: SearchResult, out: Path, *, words: PartWords, status: str = "complete") -> None:
    """Write the report and its tables into a run directory, each file atomically.

    `status` says how the search ended; anything but `complete` is shown on top of the report.
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
    return render("report.html", **_context(result, words, status))


def report_md(result: SearchResult, *, words: PartWords, status: str = "complete") -> str:
    """The same report in GitHub's Markdown."""
    return render("report.md", **_context(result, words, status))


def _context(result: SearchResult, words: PartWords, status: str) -> dict[str, Any]:
    answer = result_json(result, status)
    arms = arm_names(result)
    smallest_title, smallest_note = view.smallest_words(result)
    return {
        "result": result,
        "setting": result.setting,
        "is_share": words.metric_is_share,
        "status": status,
        "answer": answer,
        "plan_words": partial(plan_words, labels=words.labels),
        "best_rate": rate_words(result.best, result),
        "edge_sentence": edge_sentence(result),
        "bars": view.bars(result),
        "interval": view.interval(result),
        "confirmed": view.confirmed(result, arms),
        "proxies": view.proxies(result, arms),
        "failures": view.failures(result, arms),
        "max_rows": view.MAX_ROWS,
        "rank_map": maps.rank_map(result.sites, result.best, words.short_labels),
        "score_maps": maps.score_maps(result),
        "seen": {score.name: seen_enough(score) for score in result.scores},
        "helped": did_it_help(result),
        "scoring": view.scoring(result),
        "smallest_title": smallest_title,
        "smallest_note": smallest_note,
        "tests": view.tests(answer),
        "forgot": forgetting.forgot(result.forgetting),
        "costs": view.costs(result),
        "search_words": view.search_words(result.cost),
        "confirm_steps": view.confirm_steps(result),
        "python_lines": usage.python_lines(result, words.auto_class),
        "settings": view.settings(result),
    }

"""A search's result as files: report.html and report.md for people, the rest for programs.

Everything but `write` is a pure function of the result. The layout is in `templates/`.

Inside the folder each file imports only from those before it: schema, words → measured, rendering → maps,
tables → view → naming → card, charts, terms → certainty → headline → page → short_forms.
"""

from __future__ import annotations

import json
from pathlib import Path

from autopeft.records import SearchResult
from autopeft.report.card import BEST_WEIGHTS, CHART, CardFacts, hub_id, model_card, trained_card
from autopeft.report.charts import png_of
from autopeft.report.maps import heat_svg, seen_enough
from autopeft.report.measured import edge_sentence, error_over, rate_words
from autopeft.report.page import Drawing, answer_of, contents, drawn, several_html, summary_of
from autopeft.report.rendering import render
from autopeft.report.schema import ResultFile, TrialRow, result_schema, trials_schema
from autopeft.report.short_forms import leaderboard, short_html, short_text
from autopeft.report.tables import result_json, sensitivity_csv, trials_csv
from autopeft.report.view import confirm_steps
from autopeft.report.words import PartWords, WeightFolders, choice_key
from autopeft.store import write_text


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
    """One self-contained HTML page: nothing is loaded from elsewhere, all names are escaped."""
    return render("report.html", **contents(result, words, status), charts=drawn(result, words))


def report_md(result: SearchResult, *, words: PartWords, status: str = "complete") -> str:
    """The same report in GitHub's Markdown, without charts."""
    return render("report.md", **contents(result, words, status))

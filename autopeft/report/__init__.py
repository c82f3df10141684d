"""The files of a result: report.html and report.md for people, the others for programs.

All functions but the two that write are pure. `templates/` has the layout.

Inside the folder each file imports only from those before it: schema, formatting, plan_names → table_rows,
layer_maps, charts → answer, result_files → page.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from autopeft.report.answer import answer_of
from autopeft.report.charts import LossCurve
from autopeft.report.layer_maps import enough_examples
from autopeft.report.page import BEST_WEIGHTS, report_html, report_md, short_html, short_text
from autopeft.report.plan_names import PartWords, name_of, plan_words
from autopeft.report.result_files import leaderboard, result_json, sensitivity_csv, trials_csv
from autopeft.report.schema import ResultFile, TrialRow
from autopeft.report.table_rows import full_rows
from autopeft.store import write_text
from autopeft.types import SearchResult, SearchSoFar


def write(result: SearchResult, out: Path, *, words: PartWords) -> None:
    """Write the report and its tables into a run directory, each file atomically."""
    write_text(out / "trials.csv", trials_csv(result))
    write_text(out / "sensitivity.csv", sensitivity_csv(result.targets, result.scores))
    write_text(out / "report.md", report_md(result, words=words))
    write_text(out / "report.html", report_html(result, words=words))
    # Last, so that result.json is never without the other files.
    answer = json.dumps(result_json(result), indent=2, ensure_ascii=False, allow_nan=False)
    write_text(out / "result.json", answer + "\n")


def write_so_far(
    search: SearchSoFar, out: Path, *, words: PartWords, status: str, curves: Sequence[LossCurve] = ()
) -> None:
    """Write the page and the trials of an unfinished search; see `report_html`."""
    write_text(out / "trials.csv", trials_csv(search))
    write_text(out / "report.html", report_html(search, words=words, status=status, curves=curves))

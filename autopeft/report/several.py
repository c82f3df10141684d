"""Several runs on one page: a table of all, and the answer of each."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from autopeft.records import SearchResult
from autopeft.report.page import contents, drawn
from autopeft.report.rendering import render
from autopeft.report.words import PartWords


def several_html(runs: Sequence[tuple[str, SearchResult, PartWords]]) -> str:
    """One self-contained page about several runs, each given by name, result and the words of its parts."""
    return render("runs.html", runs=[_run(number, *run) for number, run in enumerate(runs, 1)])


def _run(number: int, name: str, result: SearchResult, words: PartWords) -> dict[str, Any]:
    everything = contents(result, words, "complete")
    kept = ("setting", "is_share", "headline", "summary", "confirm_steps", "error_over")
    charts, rows = drawn(result, words), everything["summary"]
    best, default = (next(row for row in rows if mark in row.marks) for mark in ("best", "baseline"))
    cost = result.cost
    score = best.test or best.confirm
    return {
        **{key: everything[key] for key in kept},
        "name": name,
        "anchor": f"run-{number}",
        "verdict": result.verdict,
        "best": best,
        "score": score,
        "default_score": default.test if best.test else default.confirm,
        "split": score.split if score else "",
        "seconds": cost.known_seconds,
        "legend": charts.score_legend,
        "numbers": charts.numbers[: 1 if charts.score else 0],
        "score_chart": _renamed(charts.score, number),
        "score_steps": charts.score_steps,
        "difference_chart": _renamed(charts.difference, number),
    }


def _renamed(chart: Markup | None, number: int) -> Markup | None:
    """The chart with ids that no other run's chart has."""
    return None if chart is None else Markup(re.sub(r'(id="|#)', rf"\1run{number}-", str(chart)))

"""Write the tables of methods and scores into docs/methods.md, between its markers.

Run `python tools/docs/method_tables.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from autopeft.plugins import discover
from autopeft.types import rate

PAGE = Path(__file__).parents[2] / "docs" / "methods.md"


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def method_table() -> str:
    """Return the table of methods: formula, servers, learning rates."""
    rows = []
    for name, method in discover("autopeft.methods").items():
        low, high = method.learning_rate_range
        rows.append(
            (
                f"`{name}`",
                method.label,
                method.summary,
                method.formula,
                ", ".join(method.servers({})) or "–",
                f"{rate(low)} … {rate(high)}",
                f"{method.step_time:.2f}",
            )
        )
    header = (
        "name",
        "method",
        "trains",
        "parameters per target module",
        "servers",
        "learning rates at 384",
        "step time",
    )
    return markdown(header, rows)


def score_table() -> str:
    """Return the table of sensitivity scores."""
    scores = discover("autopeft.sensitivity").items()
    passes = {True: "forward and backward", False: "none"}
    rows = (
        (f"`{name}`", score.summary.replace("|", "\\|"), score.unit, passes[score.reads_examples])
        for name, score in scores
    )
    return markdown(("score", "says of a target module", "unit", "pass"), rows)


TABLES = {"methods": method_table, "scores": score_table}


def filled(text: str) -> str:
    """Return the page with its tables written again."""
    for name, make in TABLES.items():
        place = re.search(rf"<!-- table {name} -->\n(.*?)<!-- end -->", text, re.DOTALL)
        assert place, f"the page has no place for the table {name}"
        text = f"{text[: place.start(1)]}\n{make()}\n\n{text[place.end(1) :]}"
    return text


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")

"""The compatibility table: why two lists of requirements conflict, and a row for each tool."""

from __future__ import annotations

from pathlib import Path

from packaging.version import Version

from tools.compatibility import TOOLS, conflict
from tools.versions import newest, pins, table

PAGE = Path(__file__).parents[2] / "docs" / "compatibility.md"
RELEASES = {"peft": ["0.19.0", "0.18.1", "0.18.0"], "datasets": ["5.0.0", "5.0.0rc1", "4.8.5"], "torch": []}


def reason(ours: list[str], theirs: list[str]) -> str:
    return conflict(ours, theirs, RELEASES.__getitem__)


def test_conflict_names_the_two_requirements_that_no_release_meets() -> None:
    said = reason(["peft>=0.19,<0.22", "datasets>=4.0"], ["peft<=0.18.1,>=0.18.0", "datasets"])
    assert "peft<=0.18.1" in said and "peft>=0.19" in said


def test_page_has_a_row_for_each_tool() -> None:
    table = PAGE.read_text(encoding="utf-8").split("<!-- tools -->")[1].split("<!-- /tools -->")[0]
    rows = [line.split("|") for line in table.splitlines() if line.startswith("| `")]
    assert [cells[1].strip(" `") for cells in rows] == list(TOOLS)
    assert {cells[3].strip() for cells in rows} <= {"yes", "no"}


def test_page_shows_the_pinned_versions_and_newest_ones_that_are_at_least_the_oldest() -> None:
    text = PAGE.read_text(encoding="utf-8").split("<!-- versions -->")[1].split("<!-- /versions -->")[0]
    rows = [
        [cell.strip(" `") for cell in line.strip("|").split("|")] for line in text.split("\n")[4:] if line
    ]
    assert {name: oldest for name, oldest, *_ in rows} == pins("oldest")
    assert {name: notebook for name, _, notebook, _ in rows if notebook} == pins("notebook")
    assert all(Version(latest) >= Version(oldest) for _, oldest, _, latest in rows)
    assert len(table(newest()).splitlines()) == len(rows) + 2

"""The page of the first steps shows the answer of the demo run that is kept."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "quickstart.md"
RUN = ROOT / "reports" / "demo" / "report.md"


def test_the_page_shows_the_answer_of_the_kept_run() -> None:
    (block,) = re.findall(r"^```\n(plan .*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    report = RUN.read_text(encoding="utf-8")
    answer = re.findall(
        r"^(?:\*\*|- How sure: |- What it costs: |- What you get: )(.*)$", report, re.MULTILINE
    )
    assert len(answer) == 4
    shown = " ".join(block.split())
    for sentence in (part for line in answer for part in re.split(r"(?<=\.) ", line.strip("*"))):
        assert sentence in shown or sentence.startswith("The runs of the search took")
    for scores in re.findall(r"^\| \*\*\w+\*\* .*$", report, re.MULTILINE):
        numbers = re.findall(r"\d+\.\d % ± \d\.\d", scores)
        assert numbers and all(number in block for number in numbers)
    assert max(map(len, block.splitlines())) <= 80

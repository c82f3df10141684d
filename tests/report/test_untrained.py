"""The untrained model beside the plans of a language model: without steps, a rate or a name of its own."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from toys.pages import Page
from toys.results import BEST, HEAD, WORDS, of_language_model

from autopeft import report
from autopeft.report import CardFacts, model_card

LOSSES = replace(WORDS, metric_is_share=False, auto_class="AutoModelForCausalLM")


@pytest.fixture(scope="module")
def result():
    return of_language_model()


def rows_of(markdown, heading):
    """The cells of the Markdown table whose first column has a heading, row by row."""
    (table,) = re.findall(rf"^\| {heading} \|.*\n(?:\|.*\n)+", markdown, flags=re.MULTILINE)[:1]
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()[2:]]


def test_the_card_has_it_in_its_last_row_without_a_rate(result):
    facts = CardFacts(base_model="org/base", dataset=None, peft_types=("lora",), seed=101)
    rows = rows_of(model_card(result, facts, LOSSES), "plan")
    assert [row[0] for row in rows] == ["best", "smallest", "baseline", "untrained model"]
    assert rows[-1][1:4] == ["0", "–", "2.500 ± 0.002"]
    assert rows[0][2] == "4e-3"


def test_the_boards_show_a_dash_for_its_steps_rate_and_seconds(result):
    text = report.report_md(result, words=LOSSES)
    (bare,) = (row for row in rows_of(text, r"arm \| plan \| steps") if row[1] == "untrained model")
    assert (bare[2], bare[5], bare[6]) == ("–", "–", "–")
    (confirmed,) = (row for row in rows_of(text, r"arm \| plan \| loss") if row[1] == "untrained model")
    assert confirmed[-2:] == ["–", "–"]
    page = Page(report.report_html(result, words=LOSSES))
    for table, columns in zip(page.all_columns("rate"), (("one run",), ("steps", "time")), strict=True):
        place = [cell.strip() for cell in table["plan"]].index("untrained model")
        assert {table[name][place] for name in ("rate", *columns)} == {"–"}
        assert table["rate"].count("–") == 1


def test_rows_for_python_have_no_rate_for_it(result):
    rows = {row["plan_id"]: row for row in report.leaderboard(result, WORDS.labels)}
    assert rows[HEAD.digest]["learning_rate"] is None
    assert rows[BEST.digest]["learning_rate"] == BEST.learning_rate
    table = Page(report.short_html(result, "runs/a", LOSSES)).columns("learning rate")
    assert dict(zip(table["plan"], table["learning rate"], strict=True))["untrained model"] == "–"


def test_as_the_best_plan_it_adapts_nothing_and_has_no_rate(result):
    best = replace(result, best=HEAD, smallest=HEAD)
    use = report.answer_of(best, LOSSES).use
    assert use[0] == "The untrained model."
    assert use[-1] == "It adapts nothing and trains nothing."

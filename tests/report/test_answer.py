"""The answer: the label of the verdict decides the headline, and its numbers are those of the record."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from toys.results import BEST, WORDS, kept_default, toy_result, with_sizes

from autopeft import report


def labelled(label):
    result = kept_default() if label == "default kept" else toy_result()
    return replace(result, verdict=replace(result.verdict, label=label))


@pytest.mark.parametrize(
    ("label", "verb", "words"),
    [
        ("better", "Use", "94.8 %"),
        ("as good and smaller", "Use", "93.6 %"),
        ("inconclusive", "Try", "93.6 %"),
        ("default kept", "Keep", "93.6 %"),
    ],
)
def test_the_label_decides_the_headline(label, verb, words):
    result = labelled(label)
    headline = report.answer_of(result, WORDS).use
    assert headline.startswith(verb) and words in headline
    for render in (report.report_html, report.report_md):
        assert headline in render(result, words=WORDS).replace("\u00a0", " ")


def test_no_number_of_a_short_run_is_in_the_answer():
    """The short runs have 88 to 93 %, and losses from 0.3 to 0.5; the default has 93.6 % on test."""
    answer = report.answer_of(with_sizes(toy_result()), WORDS)
    sentences = " ".join(answer.sentences).replace("default LoRA (93.6 %)", "")
    assert not re.search(r"\b(88|9[0123])\.\d %|\b0\.(300|350|41|50)", sentences)


def test_the_cost_of_the_best_plan_is_next_to_that_of_the_default():
    """Each trained 150 s with 1 MB of memory; a number takes four bytes, and 390 are the head's."""
    best, default = (f"{4 * (n_params + 390) / 1e3:.0f} kB" for n_params in (7_296, 9_900))
    cost = report.answer_of(toy_result(), WORDS).details["What it costs"]
    for number in ("7,296", f"{100 * 7_296 / 1_234_567:.2f} %", "390", "2.5 min", best, "9,900", default):
        assert number in cost
    kept = report.answer_of(kept_default(), WORDS).details["What it costs"]
    assert "9,900" in kept and "7,296" not in kept


def test_a_plan_is_named_as_best_once():
    by_name = {row.plan: row.mark for row in report.full_rows(toy_result(), WORDS)}
    assert list(by_name.values()) == ["best", "baseline", "finalist"]
    rows = report.full_rows(kept_default(), WORDS)
    assert [row.mark for row in rows] == ["best = baseline", "challenger", "finalist"]
    (row,) = (row for row in rows if row.plan == BEST)
    assert row.difference == (-0.007, -0.028, 0.014)

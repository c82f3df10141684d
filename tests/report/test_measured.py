"""What a report says of splits that were evaluated in part, and of rungs that did not run."""

from __future__ import annotations

from dataclasses import replace

from toys.results import WORDS, toy_result

from autopeft import report
from autopeft.records import SearchResult, from_json, to_json
from autopeft.report.measured import (
    error_over,
    examples,
    in_groups,
    on_split,
)


def test_a_split_that_was_evaluated_in_part_is_told_with_both_sizes():
    """The toy's runs evaluate 500 examples; its confirm split has 1,500, its test split 500."""
    result = toy_result()
    assert (examples(result, "confirm"), examples(result, "test")) == ("500 of 1,500", "500")
    assert on_split(result, "confirm") == "500 of the 1,500 examples of the confirm split"
    assert on_split(result, "test") == "the test split"
    for page in (report.report_md(result, words=WORDS), report.report_html(result, words=WORDS)):
        assert "500 of 1,500" in page


def test_groups_are_told_with_the_sizes_and_the_errors_and_a_result_without_them_reads():
    stored = to_json(toy_result())
    del stored["setting"]["splits"]["confirm_groups"], stored["setting"]["splits"]["test_groups"]
    old = from_json(SearchResult, stored)
    assert (in_groups(old, "confirm"), error_over(old)) == ("", "3 seeds and the examples")
    splits = replace(old.setting.splits, confirm_groups=1200)
    result = replace(old, setting=replace(old.setting, splits=splits))
    assert error_over(result) == "3 seeds and the groups of examples"
    for page in (report.report_md(result, words=WORDS), report.report_html(result, words=WORDS)):
        assert "500 of 1,500 in 1,200 groups" in page
        assert "one standard error over 3 seeds and the groups of examples" in page

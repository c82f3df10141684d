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
    is_alone,
    n_rivals,
    on_split,
    rungs_in_words,
    unfinished,
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


def test_rungs_are_told_with_the_plans_that_they_measured():
    """At 30 steps the baseline, three others and one that broke; at 75 steps three; full runs are no rung."""
    result = toy_result()
    assert rungs_in_words(result) == "30 (5 plans) and 75 (3) steps"
    first = tuple(m for m in result.measurements if m.fidelity.train_steps == 30)
    assert rungs_in_words(replace(result, measurements=first)) == "30 (5 plans) steps"
    assert rungs_in_words(replace(result, measurements=first[:1])) == "30 (1 plan) steps"
    assert rungs_in_words(replace(result, measurements=())) == "no rung"
    short = replace(result, setting=replace(result.setting, full_run_steps=75))
    assert rungs_in_words(short) == "30 (5 plans) and 75 (3) steps, the last of them full runs,"
    assert unfinished(result) is None
    assert unfinished(replace(result, measurements=first)) == (30, 75)
    assert unfinished(replace(result, measurements=())) is None


def test_rivals_are_neither_a_default_nor_the_head():
    result = toy_result()
    searched = [m for m in result.measurements if m.fidelity.split == "search"]
    rivals = {m.plan.adapters for m in searched} - {result.baseline.adapters, ()}
    assert n_rivals(result) == len(rivals) > 1 and not is_alone(result)
    first = next(p for p in result.proposals if p.plan.adapters in rivals)
    other_default = replace(first, arm=replace(first.arm, kind="baseline"))
    assert n_rivals(replace(result, proposals=(*result.proposals, other_default))) == len(rivals) - 1
    usual = tuple(m for m in searched if m.plan.adapters not in rivals)
    assert {m.plan for m in usual if not m.plan.adapters}, "the head alone is among them"
    assert n_rivals(replace(result, measurements=usual)) == 0
    assert not is_alone(replace(result, measurements=usual))
    at_another_rate = replace(result.baseline, learning_rate=2 * result.baseline.learning_rate)
    alone = tuple(replace(m, plan=at_another_rate) for m in result.measurements)
    again = replace(result, measurements=alone)
    assert n_rivals(again) == 0 and is_alone(again)

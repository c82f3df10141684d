"""What a report says of splits that were evaluated in part, and of rungs that did not run."""

from __future__ import annotations

from dataclasses import replace

from toys.results import WORDS, toy_result

from autopeft import report
from autopeft.report.measured import examples, n_rivals, on_split, rungs_in_words, unfinished


def test_a_split_that_was_evaluated_in_part_is_told_with_both_sizes():
    """The toy's runs evaluate 500 examples; its confirm split has 1,500, its test split 500."""
    result = toy_result()
    assert (examples(result, "confirm"), examples(result, "test")) == ("500 of 1,500", "500")
    assert on_split(result, "confirm") == "500 of the 1,500 examples of the confirm split"
    assert on_split(result, "test") == "the test split"
    for page in (report.report_md(result, words=WORDS), report.report_html(result, words=WORDS)):
        assert "500 of 1,500" in page


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


def test_what_was_measured_beside_the_baseline_is_a_rival_the_head_too():
    result = toy_result()
    others = {m.plan for m in result.measurements if m.fidelity.split == "search"} - {result.baseline}
    assert {plan for plan in others if not plan.adapters}, "the head alone is among them"
    assert n_rivals(result) == len({plan.adapters for plan in others} - {result.baseline.adapters}) > 1
    at_another_rate = replace(result.baseline, learning_rate=2 * result.baseline.learning_rate)
    alone = tuple(replace(m, plan=at_another_rate) for m in result.measurements)
    assert n_rivals(replace(result, measurements=alone)) == 0
    assert n_rivals(replace(result, measurements=())) == 0

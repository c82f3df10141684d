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
    assert on_split(result, "confirm") == "500 of the 1,500 rows of the confirm split"
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
    assert unfinished(result) is None
    assert unfinished(replace(result, measurements=first)) == (30, 75)
    assert unfinished(replace(result, measurements=())) is None


def test_baselines_the_head_and_what_was_never_measured_are_no_rivals():
    result = toy_result()
    kinds = {"baseline": "baseline", "head": "head"}
    proposals = tuple(
        replace(p, arm=replace(p.arm, kind=kinds.get(p.arm.label, "usual"))) for p in result.proposals
    )
    assert n_rivals(replace(result, proposals=proposals)) == 2, "one of three has the adapters of another"
    assert n_rivals(replace(result, proposals=proposals, measurements=())) == 0

"""The sentence that nothing was learned, against shares counted by hand."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
from toys.results import WORDS, toy_result

from autopeft.report import answer_of
from autopeft.setup.search_facts import chance_of
from autopeft.types import MetricFacts


def prepared(labels=(0, 0, 0, 1), score_span=1.0, is_share=True):
    splits = {"confirm": SimpleNamespace(labels=labels)}
    metric = MetricFacts(name="accuracy", is_share=is_share, score_span=score_span)
    return SimpleNamespace(bench=SimpleNamespace(splits=splits), task=SimpleNamespace(metric=metric))


def with_scores(*means):
    """The toy result whose full runs have other means; their standard errors are 0.0023."""
    result = toy_result()
    runs = zip(result.full_runs, means, strict=True)
    return replace(result, full_runs=tuple(replace(run, metric_mean=mean) for run, mean in runs))


@pytest.mark.parametrize(("best", "is_said"), [(0.70, True), (0.754, True), (0.755, False), (0.9, False)])
def test_a_plan_must_surely_beat_the_most_frequent_label(best, is_said):
    """Three of four labels are 0; the standard error of each plan is 0.0023, of which 1.96 are 0.0045."""
    outcome = with_scores(best, 0.6, 0.65)
    setting = replace(outcome.setting, chance=0.75)
    shown = answer_of(replace(outcome, setting=setting), WORDS)
    assert (shown.mark == "nothing learned") == shown.use.startswith("Nothing was learned") == is_said


def test_other_metrics_have_no_such_share():
    assert chance_of(prepared()) == 0.75
    assert chance_of(prepared(score_span=None, is_share=False)) is None


@pytest.mark.parametrize(("best", "is_said"), [(0.0, True), (0.004, True), (0.3, False)])
@pytest.mark.parametrize("labels", [([0, 3], [0]), ((0, 1), (1,))], ids=["tags", "several labels"])
def test_a_share_that_is_not_a_rate_of_hits_must_surely_be_above_0(labels, best, is_said):
    """The F1 of entities is 0 where no entity is found; the standard error is 0.0023."""
    of_entities = prepared(labels=labels, score_span=None)
    assert chance_of(of_entities) == 0.0
    outcome = with_scores(best, 0.0, 0.0)
    shown = answer_of(replace(outcome, setting=replace(outcome.setting, chance=0.0)), WORDS)
    assert (shown.mark == "nothing learned") == is_said

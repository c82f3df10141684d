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


@pytest.mark.parametrize(
    ("best", "chance", "is_said"),
    [(0.70, 0.75, True), (0.754, 0.75, True), (0.755, 0.75, False), (0.004, 0.0, True), (0.3, 0.0, False)],
)
def test_a_plan_must_surely_beat_guessing(best, chance, is_said):
    """The standard error of each plan is 0.0023, of which 1.96 are 0.0045."""
    outcome = with_scores(best, chance, chance)
    setting = replace(outcome.setting, chance=chance)
    shown = answer_of(replace(outcome, setting=setting), WORDS)
    assert (shown.mark == "nothing learned") == shown.use.startswith("Nothing was learned") == is_said


@pytest.mark.parametrize(
    ("facts", "chance"),
    [
        ({}, 0.75),
        ({"score_span": None, "is_share": False}, None),
        # The F1 of entities is 0 where no entity is found, as is that of several labels per row.
        ({"score_span": None, "labels": ([0, 3], [0])}, 0.0),
        ({"score_span": None, "labels": ((0, 1), (1,))}, 0.0),
    ],
)
def test_the_score_of_guessing_depends_on_the_metric(facts, chance):
    assert chance_of(prepared(**facts)) == chance

"""Arguments of Python that cannot be used, or that would change nothing: each is refused in one sentence."""

from __future__ import annotations

import pytest
from toys.memory import toy_dataset

import autopeft
from autopeft.errors import BudgetError, SpecError, UnknownNameError


@pytest.fixture
def data():
    return toy_dataset()


@pytest.mark.parametrize("scores", [[], (), None])
def test_an_analysis_without_a_score_is_refused(scores, model_dir, data):
    with pytest.raises(SpecError, match="score"):
        autopeft.analyze(model_dir, data, budget="5%", scores=scores)


@pytest.mark.parametrize("wrong", ["x", 0])
def test_examples_that_are_not_a_whole_number_are_refused(wrong, model_dir, data):
    with pytest.raises(SpecError, match="max_examples"):
        autopeft.analyze(model_dir, data, budget="5%", max_examples=wrong)


def test_what_a_suggestion_does_not_take_is_refused(model_dir, module):
    with pytest.raises(SpecError, match="the name of a model"):
        autopeft.suggest(module)
    with pytest.raises(BudgetError, match="rank 1"):
        autopeft.suggest(model_dir, budget="10")
    with pytest.raises(UnknownNameError, match="keras"):
        autopeft.suggest(model_dir, budget="r4", task="text-classification").snippet("keras")

"""Arguments of Python that cannot be used, or that would change nothing: each is refused in one sentence."""

from __future__ import annotations

import pytest
from toys.memory import toy_dataset

import autopeft
from autopeft.errors import BudgetError, ModelError, SpecError, UnknownNameError


@pytest.fixture
def data():
    return toy_dataset()


@pytest.mark.parametrize("wrong", ["toy/model", 7, dict])
def test_a_tokenizer_that_is_none_is_refused(wrong, module, data):
    with pytest.raises(ModelError, match=r"^tokenizer is .*, which is none; pass the object that AutoTok"):
        autopeft.analyze(module, data, budget="5%", tokenizer=wrong)


def test_an_analysis_without_a_score_is_refused(model_dir, data):
    with pytest.raises(SpecError, match="fisher"):
        autopeft.analyze(model_dir, data, budget="5%", scores=[])


def test_an_analysis_of_no_examples_is_refused(model_dir, data):
    with pytest.raises(SpecError, match="max_examples"):
        autopeft.analyze(model_dir, data, budget="5%", max_examples=0)


def test_what_a_suggestion_does_not_take_is_refused(model_dir, module):
    with pytest.raises(SpecError, match=r"takes no argument methods; see"):
        autopeft.suggest(model_dir, budget="r4", methods=["ia3"])
    for wrong in ({"memory": 24}, {"device": 0}, {"revision": 3}, {"quantize": True}, {"gpu_price": "2"}):
        ((name, value),) = wrong.items()
        with pytest.raises(SpecError, match=f"takes no {name}={value!r}; see"):
            autopeft.suggest(model_dir, **wrong)
    with pytest.raises(SpecError, match=r"takes the name of a model, not a Bert"):
        autopeft.suggest(module)
    with pytest.raises(BudgetError, match="LoRA of rank 1 on all linear layers trains"):
        autopeft.suggest(model_dir, budget="10")
    with pytest.raises(UnknownNameError, match="trainer named 'keras'"):
        autopeft.suggest(model_dir, budget="r4", task="text-classification").snippet("keras")

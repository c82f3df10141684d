"""The model card of an adapter: its numbers are those of the weights beside it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from huggingface_hub import ModelCard
from toys.results import WORDS, toy_result

from autopeft import report
from autopeft.report import CardFacts, model_card


def card(result, *, seed):
    facts = CardFacts(base_model="org/base", dataset=None, peft_types=("lora",), seed=seed)
    return ModelCard(model_card(result, facts, WORDS))


def test_names_that_others_chose_stay_text_in_the_card():
    result = toy_result()
    named = replace(result, setting=replace(result.setting, base_model="runs/a [b](http://c) <img>"))
    facts = CardFacts(base_model=None, dataset=None, peft_types=("lora",), seed=101, own_class="`<b>")
    text = ModelCard(model_card(named, facts, WORDS)).text.partition("```python")
    assert "An adapter of c) &lt;img>:" in text[0] and "`<b>" not in text[2]
    assert "[org/base](https://huggingface.co/org/base)" in card(result, seed=101).text


@pytest.mark.parametrize(("seed", "value"), [(101, 0.944), (102, 0.948), (103, 0.952)])
def test_the_hub_is_told_the_score_of_the_seed_whose_weights_are_there(seed, value):
    """Three seeds have 94.4, 94.8 and 95.2 % on test."""
    (told,) = card(toy_result(), seed=seed).data.eval_results
    assert told.metric_value == pytest.approx(value)
    assert told.dataset_split == "test"


def test_the_hub_is_told_which_part_of_a_split_gave_the_score():
    """500 of 500 examples of test were evaluated; here the split has 595, and the run 500 of them."""
    result = toy_result()
    (whole,) = card(result, seed=101).data.eval_results
    assert whole.dataset_name == "trec|6"
    larger = replace(result.setting, splits=replace(result.setting.splits, test=595))
    told = card(replace(result, setting=larger), seed=101)
    (part,) = told.data.eval_results
    assert part.dataset_name == "trec|6 (500 of 595 examples of test)"
    assert "| accuracy (test, 500 of 595 examples) |" in told.text
    confirmed = card(replace(result, test=()), seed=101).data.eval_results
    assert confirmed[0].dataset_name == "trec|6 (500 of 1,500 examples of confirm)"


def test_the_card_says_how_many_rows_and_steps_stand_behind_its_numbers():
    result = toy_result()
    text = card(result, seed=101).text
    assert "on 500 of the 1,500 examples of the confirm split and on the test split" in text
    assert "over 3 seeds and the examples" in text
    assert "trained for 300 steps of a full run's 300" in text
    one = tuple(replace(record, seeds=record.seeds[:1]) for record in result.confirmations)
    assert "over the examples, of one seed" in card(replace(result, confirmations=one), seed=101).text


def test_what_the_base_model_lacks_stands_in_card_reports_and_result():
    told = "The base model lacks weights for bert.pooler.dense; all plans train them."
    result = toy_result()
    lacking = replace(result, setting=replace(result.setting, lacking=told))
    assert f"- Base model: {told}" in card(lacking, seed=101).text
    assert "- Base model:" not in card(result, seed=101).text
    assert f"- {told}" in report.report_md(lacking, words=WORDS)
    assert told in report.report_html(lacking, words=WORDS)
    answer = report.result_json(lacking, "complete")
    assert list(answer["sentences"]) == [told, *result.sentences]

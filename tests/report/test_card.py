"""The model card of an adapter: its numbers are those of its weights."""

from __future__ import annotations

from dataclasses import replace

import pytest
from huggingface_hub import ModelCard
from toys.results import of_language_model, toy_full_run, toy_result

from autopeft.report.write_card import write_card


@pytest.fixture
def card(tmp_path):
    """A function: the card of a result."""

    def written(result, *, base_model="org/base"):
        write_card(tmp_path, result, base_model=base_model)
        return ModelCard.load(tmp_path / "README.md")

    return written


def test_names_that_others_chose_stay_text_in_the_card(card):
    result = toy_result()
    name = "runs/a [b](http://c) <img>"
    named = replace(result, setting=replace(result.setting, base_model=name, base_model_source=name))
    assert "An adapter for c) &lt;img>:" in card(named, base_model=None).text
    assert "[org/base](https://huggingface.co/org/base)" in card(result).text


def test_the_hub_gets_the_score_of_the_seed_of_the_weights(card):
    """Three seeds have 94.4, 94.8 and 95.2 % on test."""
    seeds = (101, 102, 103)
    tested = tuple(
        toy_full_run(record.name, record.plan, "test", record.metric_mean, seeds=seeds)
        for record in toy_result().test
    )
    (found,) = card(replace(toy_result(), test=tested)).data.eval_results
    assert found.metric_value == pytest.approx(0.944)
    assert found.dataset_split == "test"


def test_the_hub_gets_the_share_of_a_split_that_gave_the_score(card):
    """500 of 500 examples of test were evaluated; here the split has 595, and the run 500 of them."""
    result = toy_result()
    (whole,) = card(result).data.eval_results
    assert whole.dataset_name == "trec|6"
    larger = replace(result.setting, splits=replace(result.setting.splits, test=595))
    found = card(replace(result, setting=larger))
    (part,) = found.data.eval_results
    assert part.dataset_name == "trec|6 (500 of 595 examples of test)"
    assert "| accuracy (test, 500 of 595 examples) |" in found.text
    confirmed = card(replace(result, test=())).data.eval_results
    assert confirmed[0].dataset_name == "trec|6 (500 of 1,500 examples of confirm)"


def test_the_card_has_the_full_runs_with_their_numbers(card):
    text = card(toy_result()).text
    (best,) = (line for line in text.splitlines() if line.startswith("| best |"))
    assert all(number in best for number in ("7,296", "4e-3", "95.4 % ± 0.2", "94.8 % ± 0.2"))
    assert "| – |" in next(line for line in text.splitlines() if line.startswith("| finalist |"))
    bare = card(of_language_model()).text
    assert "2.500 ± 0.002" in bare and "(test" not in bare

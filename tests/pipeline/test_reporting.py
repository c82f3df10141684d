"""The facts about parts that a report gets: labels, the class of the base model, how to read the metric."""

from __future__ import annotations

from dataclasses import replace

import pytest
from toys.results import SETTING, toy_result

from autopeft.extension import discover
from autopeft.pipeline.reporting import part_words


@pytest.mark.parametrize("name", discover("autopeft.tasks"))
def test_every_task_gives_its_own_model_class_and_every_method_its_label(name):
    words = part_words(replace(toy_result(), setting=replace(SETTING, task=name)))
    assert words.auto_class == discover("autopeft.tasks")[name].auto_class != "AutoModel"
    assert (words.labels["ia3"], words.short_labels["bitfit"]) == ("IA³", "bias")
    assert words.labels.keys() == words.short_labels.keys() == discover("autopeft.methods").keys()


def test_task_that_is_not_installed_gets_the_general_model_class():
    setting = replace(SETTING, task="of-a-plug-in-that-is-gone")
    assert part_words(replace(toy_result(), setting=setting)).auto_class == "AutoModel"


@pytest.mark.parametrize(
    ("metric", "stored", "is_share"),
    [("accuracy", None, True), ("pearson", None, False), ("gone", None, False), ("gone", True, True)],
)
def test_stored_fact_about_the_metric_comes_before_that_of_the_part(metric, stored, is_share):
    setting = replace(SETTING, metric=metric, metric_is_share=stored)
    assert part_words(replace(toy_result(), setting=setting)).metric_is_share is is_share

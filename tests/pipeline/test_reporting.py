"""The facts about parts that a report gets: labels, the class of the base model, how to read the metric."""

from __future__ import annotations

from dataclasses import replace

import pytest
from toys.results import BEST, SETTING, toy_result

from autopeft.extension import discover
from autopeft.pipeline.reporting import part_words
from autopeft.report.naming import Naming
from autopeft.report.words import plan_words


@pytest.mark.parametrize("name", discover("autopeft.tasks"))
def test_every_task_gives_its_own_model_class_and_every_method_its_label(name):
    words = part_words(replace(toy_result(), setting=replace(SETTING, task=name)))
    assert words.auto_class == discover("autopeft.tasks")[name].auto_class != "AutoModel"
    assert (words.labels["ia3"], words.short_labels["bitfit"]) == ("IA³", "bias")
    methods = discover("autopeft.methods")
    assert words.short_labels.keys() == methods.keys() <= words.labels.keys()
    n_choices = sum(len(values) - 1 for method in methods.values() for values in method.choices.values())
    assert len(words.labels) == len(methods) + n_choices


@pytest.mark.parametrize(
    ("method", "options", "name"),
    [
        ("lora", (), "LoRA"),
        ("lora", (("dora", True),), "LoRA with DoRA"),
        ("lora", (("dora", True), ("init", "eva")), "LoRA with DoRA and EVA start"),
        ("road", (("group_size", 64), ("variant", "road_1")), "RoAd"),
        ("road", (("group_size", 64), ("variant", "road_2")), "RoAd with variant road_2"),
    ],
)
def test_a_plan_is_called_by_its_method_and_its_unusual_choices(method, options, name):
    words = part_words(toy_result())
    adapters = tuple(replace(a, method=method, options=options) for a in BEST.adapters)
    plan = replace(BEST, adapters=adapters)
    first = {proposal.plan: proposal for proposal in toy_result().proposals}
    naming = Naming(result=toy_result(), words=words, first=first)
    assert naming.approach(plan) == name
    assert naming.short(plan) == ("searched LoRA" if name == "LoRA" else name)
    assert plan_words(plan, words.labels).startswith(f"{name} r 2–13 on 7 modules")


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

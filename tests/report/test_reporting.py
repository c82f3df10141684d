"""The facts about parts that a report gets: labels, the class of the base model, how to read the metric."""

from __future__ import annotations

from dataclasses import replace

import pytest
from toys.results import BEST, SETTING, TARGETS, WORDS, toy_result

from autopeft import report
from autopeft.plugins import discover
from autopeft.report.part_words import part_words


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
        ("lora", (("dora", True), ("init", "orthogonal")), "LoRA with DoRA and orthogonal start"),
        ("road", (("group_size", 64), ("variant", "road_1")), "RoAd"),
        ("road", (("group_size", 64), ("variant", "road_2")), "RoAd with variant road_2"),
    ],
)
def test_a_plan_is_called_by_its_method_and_its_unusual_choices(method, options, name):
    adapters = tuple(replace(a, method=method, options=options) for a in BEST.adapters)
    plan = replace(BEST, adapters=adapters)
    words = report.plan_words(plan, TARGETS, part_words(toy_result()).labels)
    assert words == f"{name} of rank 2–13 on 7 modules"


def test_a_metric_is_called_by_its_label_in_texts_and_by_its_name_in_json():
    result = toy_result()
    setting = replace(result.setting, metric="entity-f1", metric_label="entity F1")
    result = replace(result, setting=setting)
    text = report.report_md(result, words=WORDS)
    assert "| entity F1 on test |" in text and ": entity F1 94.8 % on the test split" in text
    assert "entity-f1" not in text
    assert report.result_json(result)["metric"] == "entity-f1"

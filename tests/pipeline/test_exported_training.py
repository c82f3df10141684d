"""An exported adapter is trained on as it was: rate, steps and texts are read from what lies near it."""

from __future__ import annotations

import json
from dataclasses import replace

from toys.bases import plan_of_queries
from toys.results import toy_result

from autopeft.pipeline.exported_training import plan_of, training_facts
from autopeft.records import TrainedPlan, to_json
from autopeft.store import write_plan


def test_weights_of_a_run_have_the_plan_of_their_run(model_dir, data_dir, tmp_path):
    document = plan_of_queries(model_dir, data_dir, max_steps=7)
    weights = tmp_path / "run/best/weights"
    weights.mkdir(parents=True)
    write_plan(weights.parent / "plan.yaml", document)
    assert plan_of(weights) is None  # a folder of no run
    (tmp_path / "run/run.yaml").write_text("{}\n")
    facts = training_facts(plan_of(weights), document.model, weights)
    assert (facts.learning_rate, facts.max_steps) == (document.plan.learning_rate, 7)


def test_an_adapter_of_train_has_the_texts_that_it_was_given(model_dir, data_dir, tmp_path):
    document, result = plan_of_queries(model_dir, data_dir, max_steps=7), toy_result()
    known = TrainedPlan(
        spec=result.spec,
        setting=replace(result.setting, text_form="{prompt}\n{completion}"),
        best=result.best,
        measurement=result.measurements[0],
        environment=result.environment,
    )
    (tmp_path / "trained.json").write_text(json.dumps(to_json(known)))
    write_plan(tmp_path / "plan.yaml", document)
    facts = training_facts(plan_of(tmp_path), document.model, tmp_path)
    assert facts.text_form == "{prompt}\n{completion}"

"""An exported adapter is trained on as it was: rate, steps and texts are read from what lies near it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from toys.bases import plan_of_queries
from toys.results import toy_result

from autopeft.commands.export import plan_of, training_facts
from autopeft.store import write_plan
from autopeft.types import TrainedPlan, to_json


def test_weights_of_a_run_have_the_plan_of_their_run(model_dir, data_dir, tmp_path):
    document = plan_of_queries(model_dir, data_dir, max_steps=7)
    weights = tmp_path / "run/best/weights"
    weights.mkdir(parents=True)
    write_plan(weights.parent / "plan.yaml", document)
    assert plan_of(weights) is None  # a folder of no run
    (tmp_path / "run/run.yaml").write_text("{}\n")
    facts = training_facts(plan_of(weights), document.model, weights)
    assert (facts.learning_rate, facts.max_steps) == (document.plan.learning_rate, 7)


@pytest.mark.parametrize(
    ("batch_size", "tokens", "parts"),
    [
        (8, "None", (8, 1)),
        (8, "100", (4, 2)),
        (8, "47", (1, 8)),
        (6, "100", (3, 2)),
        (None, "48", (None, None)),
    ],
)
def test_a_batch_is_cut_into_equal_parts_of_which_each_has_room(
    batch_size, tokens, parts, model_dir, data_dir, tmp_path
):
    """Rows have 24 tokens at most."""
    document, result = plan_of_queries(model_dir, data_dir, max_steps=7), toy_result()
    task = document.task.model_copy(update={"batch_size": batch_size, "max_length": 24})
    environment = {"micro_batch_tokens": tokens, "dtype": "bfloat16", "checkpointing": "on"}
    known = TrainedPlan(
        spec=result.spec,
        setting=result.setting,
        best=result.best,
        measurement=result.measurements[0],
        environment=environment,
    )
    (tmp_path / "trained.json").write_text(json.dumps(to_json(known)))
    facts = training_facts(replace(document, task=task), document.model, tmp_path)
    assert (facts.micro_batch_size, facts.accumulation_steps) == parts
    assert (facts.dtype, facts.checkpointing) == ("bfloat16", True)

"""result.json is what its published JSON Schema says, key by key."""

from __future__ import annotations

import json
from dataclasses import replace

import jsonschema
import pytest
from pydantic import ValidationError
from toys.results import HEAD, toy_confirmations, toy_result

from autopeft.records import Confirmation
from autopeft.report import ResultFile, result_json
from scripts.result_schema import PAGE, schema_text

SCHEMA = json.loads(PAGE.read_text(encoding="utf-8"))


def test_published_schema_is_that_of_the_models():
    assert PAGE.read_text(encoding="utf-8") == schema_text(), "run: python scripts/result_schema.py"
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def answer_of(result):
    return json.loads(json.dumps(result_json(result, "complete")))


def test_result_of_a_search_follows_the_schema():
    answer = answer_of(toy_result())
    jsonschema.validate(answer, SCHEMA)
    ResultFile.model_validate(answer)
    assert set(SCHEMA["properties"]) == set(answer)


def test_scores_of_each_seed_and_the_head_alone_are_in_the_result():
    result = toy_result()
    numbers = {"metric_mean": 0.8, "metric_std_error": 0.01, "mean_loss": 0.5, "train_seconds": 1.0}
    head = Confirmation(
        name="head", plan=HEAD, split="confirm", seeds=(1, 2), metrics=(0.79, 0.81), **numbers
    )
    answer = answer_of(replace(result, confirmations=(*result.confirmations, head)))
    jsonschema.validate(answer, SCHEMA)
    assert (answer["head"]["metrics"], answer["head"]["trainable_params"]) == ([0.79, 0.81], 0)
    (best,) = [c for c in toy_confirmations("confirm", 0.94, 0.954, 0.951) if c.name == "best"]
    assert answer["best"]["metrics"] == list(best.metrics)
    assert answer["best"]["plan_id"] == answer["best"]["digest"] == result.best.digest
    assert answer_of(result)["head"] is None


@pytest.mark.parametrize("change", [{"verdict": {"label": "better"}}, {"surprise": 1}, {"budget": "0.5%"}])
def test_planted_fault_is_refused(change):
    answer = answer_of(toy_result()) | change
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(answer, SCHEMA)
    with pytest.raises(ValidationError):
        ResultFile.model_validate(answer)


def test_keys_of_the_result_are_documented():
    page = (PAGE.parent / "files.md").read_text(encoding="utf-8")
    assert [key for key in SCHEMA["properties"] if f"`{key}`" not in page] == []

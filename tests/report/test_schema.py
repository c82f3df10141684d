"""result.json is what its published JSON Schema says, key by key."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace

import jsonschema
import pytest
from toys.results import BASELINE, BEST, SLOW, kept_default, of_language_model, toy_result, with_sizes

from autopeft.report import ResultFile, TrialRow, result_json, trials_csv
from autopeft.types import Measurement, Status
from tools.docs.result_schema import PAGES, schema_text

SCHEMA, ROW_SCHEMA = (json.loads(page.read_text(encoding="utf-8")) for page in list(PAGES)[:2])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_published_schema_is_that_of_the_models(page):
    text = page.read_text(encoding="utf-8")
    assert text == schema_text(page), "run: python tools/docs/result_schema.py"
    jsonschema.Draft202012Validator.check_schema(json.loads(text))


def answer_of(result):
    return json.loads(json.dumps(result_json(result)))


@pytest.mark.parametrize(
    "result", [toy_result(), with_sizes(toy_result()), kept_default(), of_language_model()]
)
def test_result_of_a_search_follows_the_schema(result):
    answer = answer_of(result)
    jsonschema.validate(answer, SCHEMA)
    ResultFile.model_validate(answer)
    assert set(SCHEMA["properties"]) == set(answer)


def test_keys_of_the_result_are_documented():
    (folder,) = {page.parent for page in PAGES}
    page = (folder / "files.md").read_text(encoding="utf-8")
    keys = (*SCHEMA["properties"], *ROW_SCHEMA["properties"])
    assert [key for key in keys if f"`{key}`" not in page] == []


def read_row(row):
    """A row of text with numbers where the schema has numbers, and None for an empty cell."""
    kinds = {name: str(about) for name, about in ROW_SCHEMA["properties"].items()}
    is_number = {name: "'number'" in kind or "'integer'" in kind for name, kind in kinds.items()}
    return {
        name: None if value == "" else json.loads(value) if is_number[name] else value
        for name, value in row.items()
    }


def test_rows_of_trials_follow_their_schema():
    result = toy_result()
    rows = [read_row(row) for row in csv.DictReader(io.StringIO(trials_csv(result)))]
    assert len(rows) == len(result.measurements)
    for row, run in zip(rows, result.measurements, strict=True):
        jsonschema.validate(row, ROW_SCHEMA)
        TrialRow.model_validate(row)
        assert (row["split"], row["train_steps"]) == (run.fidelity.split, run.fidelity.train_steps)
    by_plan = {row["plan_id"]: (row["methods"], row["ranks"], row["n_targets"]) for row in rows}
    assert by_plan[BEST.digest] == ("lora", "2-13", 7)
    assert by_plan[BASELINE.digest] == ("lora", "4", 14)
    assert by_plan[SLOW.digest] == ("ia3", None, 2)


@pytest.mark.parametrize(
    "run, expected",
    [
        # Broke off after 3 s: nothing was evaluated.
        ({"status": Status.FAIL, "train_seconds": 3.0, "overhead_seconds": 0.5}, (3.0, None, 0.5)),
        ({"status": Status.FAIL}, (None, None, None)),  # its worker was lost
        # A test run trains nothing: 0 is the true number.
        ({"status": Status.COMPLETE, "eval_seconds": 1.0, "overhead_seconds": 0.5}, (0.0, 1.0, 0.5)),
    ],
)
def test_seconds_that_were_not_counted_are_empty_cells(run, expected):
    result = toy_result()
    first = result.measurements[0]
    changed = Measurement(plan=first.plan, fidelity=first.fidelity, **run)
    table = io.StringIO(trials_csv(replace(result, measurements=(changed,))))
    row = read_row(next(csv.DictReader(table)))
    jsonschema.validate(row, ROW_SCHEMA)
    names = ("train_seconds", "eval_seconds", "overhead_seconds")
    assert tuple(row[name] for name in names) == expected

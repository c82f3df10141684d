"""What a search may take: examples by a tenth of a full run, and limits that shorten the search alone."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from toys.specs import run_spec

from autopeft import commands
from autopeft.report.progress import Lines
from autopeft.setup.build import prepare
from autopeft.setup.opening import with_evaluated_examples
from autopeft.types import with_setting


@pytest.fixture(scope="module")
def prepared(model_dir, data_dir):
    return prepare(run_spec(model_dir, data_dir, budget="20%", batch_size=8))


def sized(prepared, n_rows):
    """The run with a test split of so many rows; their number alone counts here."""
    splits = dict(prepared.bench.splits)
    labels = list(splits["test"].labels) * n_rows
    splits["test"] = replace(splits["test"], labels=labels[:n_rows])
    return replace(prepared, bench=replace(prepared.bench, splits=splits))


@pytest.mark.parametrize(
    ("full_steps", "n_rows", "n_evaluated"),
    # A tenth of 100 steps of 8 rows are 80 trained rows, and an evaluated one costs half as much.
    [(100, 5000, 160), (1000, 5000, 1600), (20, 5000, 128), (1000, 1000, None)],
)
def test_a_tenth_of_a_full_run_covers_the_evaluated_examples(prepared, full_steps, n_rows, n_evaluated):
    run = with_evaluated_examples(replace(sized(prepared, n_rows), full_steps=full_steps))
    assert run.spec.data.max_eval_examples == n_evaluated
    decided = {decision.setting: decision.value for decision in run.decisions}
    expected = None if n_evaluated is None else f"{n_evaluated:,}"
    assert decided.get("data.max_eval_examples") == expected


def test_a_number_of_examples_that_was_given_or_decided_is_kept(prepared):
    """A resumed run, and one from its run.yaml."""
    chosen = with_setting(prepared.spec, "data.max_eval_examples", 7)
    run = replace(sized(prepared, 5000), spec=chosen)
    assert with_evaluated_examples(run) == run


@pytest.mark.parametrize("limit", [{"max_time": 1e-3}, {"max_cost": 1e-3}])
def test_a_limit_that_covers_nothing_leaves_the_full_run_as_long(limit, model_dir, data_dir, tmp_path):
    spec = run_spec(model_dir, data_dir, out=tmp_path / "run", budget="5%", batch_size=8, **limit)
    spec = with_setting(spec, "task.max_steps", 12)
    result, path = commands.run_search(spec, progress=Lines())
    splits = [m.fidelity.split for m in result.measurements]
    assert splits.count("search") <= 1, "the first run shows the pace"
    assert splits.count("confirm") == 1
    assert all(m.fidelity.train_steps == 12 for m in result.measurements if m.fidelity.split != "search")
    assert result.best == result.baseline and result.challenger is None
    answer = json.loads((path / "result.json").read_text(encoding="utf-8"))
    assert answer["challenger"] is None and answer["verdict"]["label"] == "default kept"
    assert (path / "best/weights/adapter_model.safetensors").is_file()

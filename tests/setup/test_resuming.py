"""What a user may change with `--resume`: the deadline, places, how it computes, and nothing else."""

from __future__ import annotations

import importlib
from operator import attrgetter

import pytest
from toys.specs import run_spec

from autopeft.errors import SpecError
from autopeft.setup.resuming import _metric_digest, resumed
from autopeft.store import RunDir
from autopeft.types import with_setting

STORED = run_spec(trials=10, max_cost=3.0)


@pytest.fixture
def out(tmp_path):
    with RunDir.create(tmp_path / "run", resume=False) as run:
        run.write_spec(STORED)
    return tmp_path / "run"


@pytest.mark.parametrize(
    ("given", "pieces"),
    [
        ({}, (4096, "off")),
        ({"memory": 2**30}, (4096, "off")),
        ({"micro_batch_tokens": 512}, (512, "off")),
        ({"checkpointing": "on"}, (4096, "on")),
    ],
)
def test_pieces_of_a_step_and_the_memory_may_change(tmp_path, given, pieces):
    out = tmp_path / "run"
    with RunDir.create(out, resume=False) as run:
        run.write_spec(run_spec(micro_batch_tokens=4096, checkpointing="off"))
    spec = resumed(run_spec(out=out, **given)).execution
    assert (spec.micro_batch_tokens, spec.checkpointing) == pieces
    assert spec.memory_bytes == given.get("memory")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("search.trials", 40),
        ("search.effort", "quick"),
    ],
)
def test_what_is_searched_and_its_limits_cannot_change(out, name, value):
    with pytest.raises(SpecError, match=name):
        resumed(run_spec(out=out, **{name: value}))


@pytest.mark.parametrize(("name", "value"), [("execution.gpu_price", 2.5), ("search.max_time_seconds", 60.0)])
def test_the_price_of_the_machine_and_the_deadline_may_change(out, name, value):
    spec = resumed(with_setting(run_spec(out=out), name, value))
    assert spec == with_setting(with_setting(STORED, "output.out", str(out)), name, value)


def test_the_same_settings_may_be_given_again(out):
    again = with_setting(STORED, "output.out", str(out))
    assert resumed(again) == again


@pytest.mark.parametrize("name", ["model.id", "data.source", "search.space", "search.baseline"])
def test_model_data_and_files_of_the_user_may_be_at_another_place(tmp_path, name):
    with RunDir.create(tmp_path / "run", resume=False) as run:
        run.write_spec(with_setting(run_spec(), name, "before"))
    spec = resumed(with_setting(run_spec(out=tmp_path / "run"), name, "after"))
    assert attrgetter(name)(spec) == "after"


def test_a_metric_of_the_user_is_known_by_its_file(tmp_path, monkeypatch):
    name = f"own_{tmp_path.name}".replace("-", "_")
    monkeypatch.syspath_prepend(str(tmp_path))
    file = tmp_path / f"{name}.py"
    file.write_text("score = len")
    importlib.import_module(name)
    original = _metric_digest(f"{name}:score")
    file.write_text("score = sum")
    assert None is not _metric_digest(f"{name}:score") != original
    assert _metric_digest("accuracy") is _metric_digest(None) is _metric_digest("sys:exit") is None

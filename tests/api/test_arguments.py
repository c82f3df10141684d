"""Settings as arguments of Python: the same names, units and errors as the command line."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

import autopeft
from autopeft import api
from autopeft.cli.app import app
from autopeft.errors import SpecError, UnknownNameError
from autopeft.types import SHORT_NAMES, RunSpec


def test_flags_of_the_command_line_and_arguments_are_one_table():
    (search,) = (c.callback for c in app.registered_commands if c.callback.__name__ == "search_command")
    flags = set(search.__annotations__)
    not_settings = {"resume", "config", "dry_run", "as_json", "quiet", "verbose", "yes"}
    assert flags - not_settings == set(SHORT_NAMES)


def test_a_record_a_file_and_arguments_ask_the_same(tmp_path):
    record = RunSpec.model_validate({"model": {"id": "m"}, "search": {"trials": 5}})
    file = tmp_path / "run.yaml"
    file.write_text("model: {id: m}\nsearch: {trials: 5}\n", encoding="utf-8")
    resolve = partial(api._resolve, tokenizer=None)
    requests = [
        resolve(record, None, {}),
        resolve(file, None, {}),
        resolve("m", None, {"trials": 5}),
        resolve(record, None, {"search.trials": 5}),
        resolve(None, None, {"model.id": "m", "search.trials": 5}),
    ]
    assert {(spec.model.id, spec.search.trials, spec.explicit) for spec, _ in requests} == {
        ("m", 5, frozenset({"model.id", "search.trials"}))
    }


def test_units_are_read_as_on_the_command_line():
    settings = {"max_time": "2m", "memory": "1KiB", "budget": 300}
    spec, _ = api._resolve(None, None, settings, tokenizer=None)
    assert spec.search.max_time_seconds == 120
    assert spec.execution.memory_bytes == 1024
    assert spec.budget.requested == "300"


@pytest.mark.parametrize(
    "settings",
    [{"trials": 2, "search.trials": 3}, {"model": "m", "model.id": "n"}, {"label": "a", "label_column": "b"}],
)
def test_a_setting_under_two_names_is_refused(settings):
    with pytest.raises(SpecError, match="are one setting"):
        autopeft.search(**settings)


def test_numbers_of_numpy_are_numbers():
    settings = {
        "trials": np.int64(3),
        "margin": np.float32(0.5),
        "budget": np.int32(300),
    }
    spec, _ = api._resolve(None, None, settings, tokenizer=None)
    assert (spec.search.trials, spec.budget.requested) == (3, "300")
    assert spec.search.margin == 0.5


def test_unknown_argument_is_answered_with_the_nearest():
    with pytest.raises(UnknownNameError, match="'trials'"):
        autopeft.search(trails=3)


def test_names_are_there():
    assert set(autopeft.__all__) <= set(dir(autopeft))
    with pytest.raises(AttributeError, match="no attribute 'serch'"):
        autopeft.serch  # noqa: B018

"""Calls from several threads of one process take turns, and a search leaves the process as it was."""

from __future__ import annotations

import logging
import time
from concurrent.futures import ThreadPoolExecutor

import optuna
import pytest
import transformers
from toys.bases import state_of
from toys.memory import SMALL, same_weights, toy_dataset, weights_of

import autopeft
from autopeft.setup.resources import one_at_a_time

SHORT = {**SMALL, "max_steps": 4, "effort": "quick"}


def numbers_of(result):
    return [(m.plan, m.fidelity, m.loss, m.metric) for m in result.measurements]


def test_two_searches_of_one_model_in_two_threads_give_what_one_gives(module, tokenizer, tmp_path):
    inputs = {"model": module, "data": toy_dataset(), "tokenizer": tokenizer, **SHORT}
    weights, state = weights_of(module), state_of(module)
    alone = autopeft.search(**inputs, out=tmp_path / "alone")
    with ThreadPoolExecutor(2) as pool:
        searches = [pool.submit(autopeft.search, **inputs, out=tmp_path / name) for name in "ab"]
    assert [numbers_of(search.result()) for search in searches] == [numbers_of(alone)] * 2
    assert same_weights(weights, weights_of(module))
    assert vars(state_of(module)) == vars(state)


@pytest.mark.parametrize("call", ["search", "analyze", "suggest", "apply", "load"])
def test_each_call_that_touches_a_model_waits_for_another_thread(call, run, model_dir, caplog):
    _, _, result, _ = run
    calls = {
        "search": lambda: autopeft.search(str(model_dir), "no/such.csv"),
        "analyze": lambda: autopeft.analyze(str(model_dir), "no/such.csv"),
        "suggest": lambda: autopeft.suggest(str(model_dir), budget="no budget"),
        "apply": lambda: autopeft.apply("no plan", None),
        "load": lambda: result.load(),
    }
    with ThreadPoolExecutor(1) as pool, caplog.at_level(logging.INFO):
        with one_at_a_time():
            other = pool.submit(calls[call])
            deadline = time.monotonic() + 60
            while "waits" not in caplog.text and time.monotonic() < deadline:
                time.sleep(0.01)
            assert "waits" in caplog.text and not other.done()
        with pytest.raises(autopeft.AutopeftError):
            other.result(60)
    with pytest.raises(autopeft.AutopeftError):
        calls[call]()  # an error lets the next call in


def test_search_leaves_the_loggers_and_bars_of_the_libraries_as_they_were(model_dir, data_dir, tmp_path):
    before = optuna.logging.get_verbosity()
    loggers = [logging.getLogger(name) for name in ("optuna", "alembic", "transformers", "datasets")]
    transformers.logging.disable_progress_bar()
    optuna.logging.set_verbosity(optuna.logging.INFO)
    try:
        levels = [(logger.level, list(logger.handlers)) for logger in loggers]
        autopeft.search(str(model_dir), str(data_dir), out=tmp_path / "run", **SHORT)
        assert [(logger.level, list(logger.handlers)) for logger in loggers] == levels
        assert not transformers.logging.is_progress_bar_enabled()
    finally:
        transformers.logging.enable_progress_bar()
        optuna.logging.set_verbosity(before)

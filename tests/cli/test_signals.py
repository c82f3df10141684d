"""Signals: each ends the run, also where Python drops the exception; the folder to resume is named."""

from __future__ import annotations

import gc
import os
import signal
import time

import pytest
from toys.specs import run_spec

from autopeft import commands
from autopeft.cli.exit_codes import stopping_signals
from autopeft.report.progress import Lines

CODES = {"SIGINT": None, "SIGTERM": 143, "SIGHUP": 129, "SIGUSR1": 75, "SIGUSR2": 75, "SIGXCPU": 75}


@pytest.fixture(autouse=True)
def delivered():
    """Signals arrive, also where the tests run in the background, which may ignore some."""
    before = {name: signal.getsignal(getattr(signal, name)) for name in CODES}
    for name in CODES:
        signal.signal(getattr(signal, name), signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for name, handler in before.items():
        signal.signal(getattr(signal, name), handler)


def raised_by(name):
    return KeyboardInterrupt if name == "SIGINT" else SystemExit


@pytest.mark.parametrize("name", CODES)
def test_a_signal_raises_where_it_arrives(name):
    before = signal.getsignal(getattr(signal, name))
    with pytest.raises(raised_by(name)) as caught, stopping_signals():
        os.kill(os.getpid(), getattr(signal, name))
    assert getattr(caught.value, "code", None) == CODES[name]
    assert signal.getsignal(getattr(signal, name)) == before


@pytest.mark.parametrize("name", CODES)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_signal_that_a_destructor_swallows_is_raised_by_the_loop(name):
    class Slow:
        def __del__(self):
            os.kill(os.getpid(), getattr(signal, name))

    with stopping_signals():
        cycle = [Slow()]
        cycle.append(cycle)
        del cycle
        with pytest.raises(raised_by(name)):
            gc.collect()  # the exception goes no further than this
            time.sleep(60)


def test_a_signal_that_the_caller_ignores_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stopping_signals():
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(("method", "is_measured"), [("phase", False), ("measured", True)])
def test_the_folder_to_resume_is_named_once_something_was_measured(
    model_dir, data_dir, tmp_path, caplog, method, is_measured
):
    def stop(*_, **__):
        raise KeyboardInterrupt

    progress = Lines()
    setattr(progress, method, stop)
    out = tmp_path / "run"
    spec = run_spec(model_dir, data_dir, out=out, max_steps=8, budget="5%", trials=4, methods="lora")
    with pytest.raises(KeyboardInterrupt):
        commands.run_search(spec, progress=progress)
    assert (f"autopeft search --resume --out {out}" in caplog.text) == is_measured
    assert out.exists() == is_measured

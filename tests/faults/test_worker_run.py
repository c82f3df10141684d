"""A run on workers: the same measurements as on one process, and none lost where a worker dies."""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import replace

import datasets
import pytest
from toys.processes import running_workers
from toys.reading import rows_of
from toys.specs import run_spec

from autopeft import pipeline
from autopeft.cli.progress import Silent
from autopeft.errors import SpecError
from autopeft.pipeline.memory import InMemory
from autopeft.pipeline.working import with_wave
from autopeft.records import IN_MEMORY

GIVEN = frozenset({"search.trials", "confirm.seeds"})


class Kills(Silent):
    """Kills a worker after the third measurement, while it may be at the fourth."""

    n_measured = 0

    def measured(self, measurement, **_):
        self.n_measured += 1
        if self.n_measured == 3:
            os.kill(running_workers()[0], signal.SIGKILL)


@pytest.mark.parametrize("executor", ["process", "ray"])
def test_two_workers_measure_the_same_as_one_process_even_if_one_is_killed(
    executor, small_spec, finished, tmp_path
):
    spec = small_spec(tmp_path / "run", methods="ia3,lora", executor=executor, workers=2)
    display = Kills()
    result, path = pipeline.search(spec, given=GIVEN, progress=display)
    assert display.n_measured >= 3
    assert rows_of(path) == rows_of(finished)
    assert running_workers() == []
    assert not list((path / "state/paused").glob("*"))
    # A resumed run may spread its measurements otherwise; here nothing is left to measure.
    again = pipeline.search(run_spec(out=path), resume=True, progress=Silent())[0]
    assert again.verdict == result.verdict


def test_objects_in_memory_are_refused(small_spec, tmp_path, model_dir):
    spec = small_spec(tmp_path / "run", executor="process", workers=2)
    spec = spec.model_copy(update={"data": spec.data.model_copy(update={"source": IN_MEMORY})})
    table = datasets.Dataset.from_dict({"text": ["good"], "label": ["a"]})
    with pytest.raises(SpecError, match="loads model and data in other processes, and here they are objects"):
        pipeline.search(spec, given=GIVEN, progress=Silent(), memory=replace(InMemory(), data=table))


def test_numbers_of_gpus_are_left_to_ray(small_spec, tmp_path):
    spec = small_spec(tmp_path / "run", executor="ray", device="cuda:0,1")
    with pytest.raises(
        SpecError, match="gives each worker a GPU by itself; set --device to cuda and --workers"
    ):
        pipeline.search(spec, given=GIVEN, progress=Silent())


def test_an_executor_without_its_package_is_refused(small_spec, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)  # as if it were not installed
    spec = small_spec(tmp_path / "run", executor="ray")
    with pytest.raises(
        SpecError, match=r'needs the package ray; install it with: pip install "autopeft\[ray\]"'
    ):
        pipeline.search(spec, given=GIVEN, progress=Silent())


@pytest.mark.parametrize(
    ("settings", "wave"),
    [({}, 4), ({"workers": 6}, 6), ({"workers": 6, "wave": 3}, 3), ({"device": "cuda:0,1,2,3,4"}, 5)],
)
def test_a_wave_has_a_plan_for_each_worker(settings, wave):
    assert with_wave(run_spec(**settings)).execution.wave == wave

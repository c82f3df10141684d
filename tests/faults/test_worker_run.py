"""A run on workers: the same measurements as on one process, and none lost if a worker dies."""

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

from autopeft import commands
from autopeft.commands import search as searching
from autopeft.errors import RunDirError, SpecError, WorkerLostError
from autopeft.report.progress import Lines
from autopeft.setup.build import prepare
from autopeft.setup.look import InMemory
from autopeft.setup.resuming import loaded_facts
from autopeft.setup.workers import WorkerBench
from autopeft.types import IN_MEMORY


class Kills(Lines):
    """Kills a worker after the third measurement, while it may be at the fourth."""

    n_measured = 0

    def measured(self, measurement, **_):
        self.n_measured += 1
        if self.n_measured == 3:
            os.kill(running_workers()[0], signal.SIGKILL)


@pytest.fixture
def loses_weights(monkeypatch):
    """The search loses its own weights when its workers start, as if it had moved them off a GPU."""
    start = searching.start_workers

    def start_workers(executor, run, prepared):
        measure = start(executor, run, prepared)
        prepared.base.module.to("meta")
        return measure

    monkeypatch.setattr(searching, "start_workers", start_workers)


@pytest.mark.parametrize("executor", ["process", pytest.param("ray", marks=pytest.mark.nightly)])
def test_two_workers_measure_the_same_as_one_process_and_resume_if_one_is_killed(
    executor, small_spec, finished, tmp_path, loses_weights
):
    spec = small_spec(tmp_path / "run", methods="ia3,lora", executor=executor, workers=2)
    with pytest.raises(WorkerLostError):
        commands.run_search(spec, progress=Kills())
    assert running_workers() == []
    result, path = commands.run_search(run_spec(out=tmp_path / "run"), resume=True, progress=Lines())
    assert rows_of(path) == rows_of(finished)
    assert running_workers() == []
    assert not list((path / "state/under_way").glob("*"))
    assert list((path / "best/weights").glob("*.safetensors"))
    assert result.environment["device"] == "cpu"
    # A resumed run may spread its measurements otherwise; here nothing is left to measure.
    again = commands.run_search(run_spec(out=path), resume=True, progress=Lines())[0]
    assert again.verdict == result.verdict


@pytest.fixture
def worker_bench(small_spec, finished, caplog):
    """What makes a worker of the finished run; it logs errors only, as the last thing of this test."""
    caplog.set_level("ERROR", "autopeft")  # restored afterwards
    spec = small_spec(finished, methods="ia3,lora")
    return WorkerBench(
        spec=spec,
        run=finished,
        facts=loaded_facts(prepare(spec)),
        devices=("cpu",),
        n_threads=1,
    )


def test_a_worker_without_the_run_directory_is_refused(worker_bench, tmp_path):
    with pytest.raises(RunDirError, match="is not the run directory"):
        replace(worker_bench, run=tmp_path)(0)


@pytest.mark.parametrize("name", ["transformers", "weights rounded to bfloat16", "data_fingerprint"])
def test_a_worker_with_other_versions_weights_or_data_is_refused(worker_bench, name):
    search = replace(worker_bench, facts={**worker_bench.facts, name: "another"})
    with pytest.raises(SpecError, match=f"{name} was another"):
        search(0)


def test_objects_in_memory_are_refused(small_spec, tmp_path, model_dir):
    spec = small_spec(tmp_path / "run", executor="process", workers=2)
    spec = spec.model_copy(update={"data": spec.data.model_copy(update={"source": IN_MEMORY})})
    table = datasets.Dataset.from_dict({"text": ["good"], "label": ["a"]})
    with pytest.raises(SpecError, match="objects in memory"):
        commands.run_search(spec, progress=Lines(), memory=replace(InMemory(), data=table))


def test_numbers_of_gpus_are_left_to_ray(small_spec, tmp_path):
    spec = small_spec(tmp_path / "run", executor="ray", device="cuda:0,1")
    with pytest.raises(SpecError, match="--workers"):
        commands.run_search(spec, progress=Lines())


def test_an_executor_without_its_package_is_refused(small_spec, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)  # as if it were not installed
    spec = small_spec(tmp_path / "run", executor="ray")
    with pytest.raises(SpecError, match="pip install ray"):
        commands.run_search(spec, progress=Lines())

"""Workers share the GPUs: what each may use of one, and that the process of the search leaves them to it."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from toys.specs import run_spec

from autopeft.model import BaseModel
from autopeft.pipeline import computing
from autopeft.pipeline.prepare import prepare
from autopeft.pipeline.working import started
from autopeft.store import RunDir
from autopeft.train import Compute

GIB = 2**30


@pytest.mark.parametrize(
    ("settings", "n_bits", "gib"),
    [
        ({"executor": "process", "workers": 4, "device": "cuda:0"}, 0, 15),  # of 52 free and 8 of its own
        ({"executor": "process", "workers": 4, "device": "cuda:0"}, 4, 13),  # its own stay
        ({"executor": "process", "workers": 4, "device": "cuda"}, 0, 15),
        ({"executor": "process", "workers": 3, "device": "cuda:0,1"}, 0, 30),
        ({"executor": "process", "workers": 4, "device": "cuda:0", "memory": "28GiB"}, 0, 7),
        ({"executor": "process", "workers": 2, "device": "cuda:0,1"}, 0, None),
        ({"executor": "process", "device": "cuda:0,1", "memory": "28GiB"}, 0, 28),
        ({"executor": "ray", "workers": 4, "device": "cuda"}, 0, None),  # gives each a GPU
        ({"executor": "postgresql", "workers": 4}, 0, None),
        ({"workers": 4, "device": "cuda:0"}, 0, None),
    ],
)
def test_workers_on_one_gpu_share_its_memory(settings, n_bits, gib, monkeypatch):
    def free_bytes(device, *, limit_bytes):
        return min(52 * GIB, (limit_bytes or 60 * GIB) - 8 * GIB)

    monkeypatch.setattr(computing, "free_bytes", free_bytes)
    base = SimpleNamespace(device=torch.device("cuda:0"), n_bits=n_bits, weight_bytes=8 * GIB)
    allowed = computing.memory_of_one(run_spec(**settings).execution, base)
    assert allowed == (None if gib is None else gib * GIB)


def test_processes_on_a_cpu_are_not_limited():
    execution = run_spec(executor="process", workers=4).execution
    assert computing.memory_of_one(execution, SimpleNamespace(device=torch.device("cpu"))) is None


class Starting:
    """An executor that notes what the main process holds when its workers start."""

    name, assigns_gpus = "starting", False

    def __init__(self, bench, *, shares_memory):
        self.bench, self.shares_memory = bench, shares_memory

    def start(self, make, *, local, n_workers, uses_gpu):
        self.kept_bytes, self.make, self.uses_gpu = self.bench.batches.n_bytes, make, uses_gpu
        return local


@pytest.mark.parametrize("shares_memory", [True, False])
@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_the_gpu_is_left_to_workers_that_load_models_of_their_own(
    kind, shares_memory, model_dir, data_dir, tmp_path, monkeypatch
):
    prepared = prepare(run_spec(model_dir, data_dir, max_steps=4, batch_size=8, budget="5%"))
    prepared = replace(prepared, bench=replace(prepared.bench, compute=Compute(memory_bytes=7 * GIB)))
    before, n_kept = prepared.base.sha256(), prepared.bench.batches.n_bytes
    prepared.bench.sample_batches(n_examples=4, batch_size=2, seed=0)
    assert prepared.bench.batches.n_bytes > n_kept
    released = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: released.append("cache"))
    monkeypatch.setattr(prepared.base.module, "cpu", lambda: released.append("weights"))
    monkeypatch.setattr(BaseModel, "device", property(lambda base: torch.device(kind)))  # as if it lay there
    executor = Starting(prepared.bench, shares_memory=shares_memory)
    with RunDir.create(tmp_path / "run", resume=False) as run:
        started(executor, run, prepared, prepared.bench)
    is_left = kind == "cuda" and not shares_memory
    assert (executor.kept_bytes == 0) == is_left
    assert released[-2:] == (["weights", "cache"] if is_left else [])
    assert executor.uses_gpu == (kind == "cuda")
    assert executor.make.spec.execution.memory_bytes == 7 * GIB
    assert prepared.base.sha256() == before


def test_a_base_model_on_the_cpu_is_watched_anew_and_a_quantised_one_stays(make_base, monkeypatch):
    base = make_base("bert")
    watch = base.watch
    moved = []
    monkeypatch.setattr(base.module, "cpu", lambda: moved.append(True))
    with monkeypatch.context() as quantised:
        quantised.setattr(BaseModel, "n_bits", 4)
        base.to_cpu()
    assert (moved, base.watch) == ([], watch)
    base.to_cpu()
    assert moved == [True]
    assert base.watch is not watch

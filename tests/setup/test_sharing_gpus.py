"""Workers share the GPUs: what each may use of one, and that the process of the search leaves them to it."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from toys.specs import run_spec

from autopeft.errors import ModelError
from autopeft.model import BaseModel, find_device, load, load_skeleton
from autopeft.model.devices import equal_gpus
from autopeft.setup import resources
from autopeft.setup.build import prepare
from autopeft.setup.resources import one_at_a_time
from autopeft.setup.resuming import resumed
from autopeft.setup.workers import start_workers
from autopeft.store import RunDir
from autopeft.train import Compute
from autopeft.types import ModelSpec

GIB = 2**30
CARD = ("H100", 80 * GIB)


@pytest.fixture
def see_gpus(monkeypatch):
    """A function that makes torch see some GPUs, each a name with its bytes."""

    def see(*cards):
        properties = [SimpleNamespace(name=name, total_memory=n_bytes) for name, n_bytes in cards]
        monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(cards))
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(cards))
        monkeypatch.setattr(torch.cuda, "get_device_properties", properties.__getitem__)

    return see


def named(*numbers):
    return tuple(f"cuda:{number}" for number in numbers)


@pytest.mark.parametrize(
    ("settings", "devices", "n_workers"),
    [
        ({"executor": "process"}, named(0, 1, 2, 3), 4),
        ({"executor": "process", "workers": 8}, named(0, 1, 2, 3), 8),
        ({"executor": "process", "workers": 2}, named(0, 1), 2),
        ({"executor": "process", "device": "cuda:1,3"}, named(1, 3), 2),
        ({"executor": "process", "device": "balanced"}, ("balanced",), 1),
        ({"executor": "process", "device": "cuda:1,3", "workers": 1}, named(1, 3), 2),
        ({"executor": "ray", "workers": 2}, (None,), 2),
        ({}, (None,), 1),
    ],
)
def test_processes_are_spread_over_all_gpus(settings, devices, n_workers, see_gpus):
    see_gpus(CARD, CARD, CARD, CARD)
    execution = run_spec(**settings).execution
    assert (resources.worker_devices(execution), resources.n_workers(execution)) == (devices, n_workers)


def test_gpus_unlike_the_first_are_left_out(see_gpus):
    see_gpus(CARD, ("T400", 2 * GIB), CARD, ("H100", 94 * GIB))
    assert equal_gpus() == named(0, 2)
    see_gpus()
    assert equal_gpus() == ()


@pytest.mark.parametrize(("n_threads", "n_workers"), [(1, 1), (2, 1), (4, 2), (7, 3), (64, 4)])
@pytest.mark.parametrize("device", [None, "cpu"])
def test_processes_on_a_cpu_get_two_threads_each_at_least(device, n_threads, n_workers, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: n_threads)
    assert resources.n_workers(run_spec(executor="process", device=device).execution) == n_workers
    assert resources.n_workers(run_spec(device=device).execution) == 1


@pytest.mark.parametrize(("given", "n_workers"), [({}, 2), ({"workers": 6}, 6)])
def test_a_resumed_run_is_spread_over_the_gpus_of_its_new_machine(given, n_workers, see_gpus, tmp_path):
    see_gpus(*[CARD] * 8)
    spec = run_spec(out=tmp_path / "run", executor="process", trials=4)
    with RunDir.create(tmp_path / "run", resume=False) as run:
        run.write_spec(spec)
    see_gpus(CARD, CARD)
    again = resumed(run_spec(out=tmp_path / "run", **given)).execution
    assert resources.n_workers(again) == n_workers
    assert resources.worker_devices(again) == named(0, 1)


@pytest.mark.parametrize(
    ("settings", "gib"),
    [
        ({"executor": "process", "workers": 4, "device": "cuda:0"}, 15),  # of 52 free and 8 of its own
        ({"executor": "process", "workers": 3, "device": "cuda:0,1"}, 30),
        ({"executor": "process", "workers": 4, "device": "cuda:0", "memory": "28GiB"}, 7),
        ({"executor": "process"}, None),  # one on each of two
        ({"executor": "process", "workers": 4}, 30),
        ({"executor": "process", "device": "cuda:0,1", "memory": "28GiB"}, 28),
        ({"executor": "ray", "workers": 4, "device": "cuda"}, None),  # gives each a GPU
        ({"workers": 4, "device": "cuda:0"}, None),
    ],
)
def test_workers_on_one_gpu_share_its_memory(settings, gib, see_gpus, monkeypatch):
    see_gpus(CARD, CARD)

    def free_bytes(device, *, limit_bytes):
        return min(52 * GIB, (limit_bytes or 60 * GIB) - 8 * GIB)

    monkeypatch.setattr(resources, "free_bytes", free_bytes)
    gpu = torch.device("cuda:0")
    base = SimpleNamespace(device=gpu, devices=(gpu,), weight_bytes=8 * GIB)
    allowed = resources.memory_of_one(run_spec(**settings).execution, base)
    assert allowed == (None if gib is None else gib * GIB)


class Starting:
    """An executor that notes what the main process holds when its workers start."""

    name, assigns_gpus = "starting", False

    def __init__(self, bench, *, shares_memory):
        self.bench, self.shares_memory = bench, shares_memory

    def start(self, make, *, local, n_workers, uses_gpu):
        self.make, self.uses_gpu = make, uses_gpu
        return local


@pytest.mark.parametrize("shares_memory", [True, False])
@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_the_gpu_is_left_to_workers_that_load_models_of_their_own(
    kind, shares_memory, model_dir, data_dir, tmp_path, monkeypatch
):
    prepared = prepare(run_spec(model_dir, data_dir, max_steps=4, batch_size=8, budget="5%"))
    prepared = replace(prepared, bench=replace(prepared.bench, compute=Compute(memory_bytes=7 * GIB)))
    before = prepared.base.sha256()
    released = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: released.append("cache"))
    monkeypatch.setattr(prepared.base.module, "cpu", lambda: released.append("weights"))
    monkeypatch.setattr(BaseModel, "device", property(lambda base: torch.device(kind)))  # as if it lay there
    executor = Starting(prepared.bench, shares_memory=shares_memory)
    with RunDir.create(tmp_path / "run", resume=False) as run:
        start_workers(executor, run, prepared)
    is_left = kind == "cuda" and not shares_memory
    assert released[-2:] == (["weights", "cache"] if is_left else [])
    assert executor.uses_gpu == (kind == "cuda")
    assert executor.make.spec.execution.memory_bytes == 7 * GIB
    assert executor.make.devices == (None,)
    assert prepared.base.sha256() == before


@pytest.mark.parametrize(
    ("settings", "free", "device"),
    [
        ({}, 1.2, "balanced"),
        ({}, 1.3, None),
        ({"dtype": "bfloat16"}, 0.7, None),
        ({"device": "cuda:0"}, 1.2, "cuda:0"),
        ({"executor": "process"}, 1.2, None),
        ({"quantize": "4bit"}, 1.2, None),
    ],
)
def test_weights_that_leave_less_than_a_fifth_of_a_gpu_are_spread_over_all(
    settings, free, device, see_gpus, monkeypatch, model_dir
):
    see_gpus(CARD, CARD)
    model, auto_class = ModelSpec(id=str(model_dir)), "AutoModelForSequenceClassification"
    weights = load_skeleton(model, auto_class=auto_class).module.parameters()
    free_bytes = int(free * 4 * sum(p.numel() for p in weights))
    monkeypatch.setattr(resources, "free_bytes", lambda *_, **__: free_bytes)
    spec = resources.with_spread(
        run_spec(model_dir, **{"dtype": "float32"} | settings), auto_class=auto_class
    )
    assert spec.execution.device == device


def test_balanced_needs_two_gpus(see_gpus):
    see_gpus(CARD, CARD)
    assert find_device("balanced") == torch.device("cuda")
    see_gpus(CARD)
    with pytest.raises(ModelError, match="torch finds 1; pass cuda or cpu"):
        find_device("balanced")


def test_a_model_that_does_not_fit_all_gpus_together_is_refused(see_gpus, model_dir):
    """Torch has no such GPUs here, so that transformers gives all weights to the CPU."""
    see_gpus(CARD, CARD)
    with pytest.raises(ModelError, match="does not fit into the 2 GPUs of this machine together"):
        load(
            ModelSpec(id=str(model_dir)),
            auto_class="AutoModelForSequenceClassification",
            label_names=("a", "b"),
            device="balanced",
        )


def test_a_call_leaves_the_memory_of_gpus_to_the_process_that_made_it(monkeypatch):
    """What `--memory` allows a search is not all that the user's own training may have afterwards."""
    shares = {0: 1.0, 1: 0.75}
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", shares.__getitem__)
    monkeypatch.setattr(
        torch.cuda, "set_per_process_memory_fraction", lambda share, index: shares.update({index: share})
    )
    with one_at_a_time():
        shares[0] = shares[1] = 0.25
    assert shares == {0: 1.0, 1: 0.75}


def test_the_limit_of_the_settings_is_enforced_before_anything_is_measured(monkeypatch, model_dir, data_dir):
    limits = []
    monkeypatch.setattr(resources, "limit_memory", lambda device, n_bytes: limits.append((device, n_bytes)))
    settings = {"max_steps": 4, "batch_size": 8, "budget": "5%"}
    prepare(run_spec(model_dir, data_dir, **settings))
    assert limits == []
    prepare(run_spec(model_dir, data_dir, memory="64GiB", **settings))
    assert limits == [(torch.device("cpu"), 64 * GIB)]

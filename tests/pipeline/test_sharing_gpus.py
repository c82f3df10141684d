"""Workers share the GPUs: what each may use of one, and that the process of the search leaves them to it."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from toys.specs import run_spec

from autopeft.doctor import diagnose
from autopeft.errors import ModelError
from autopeft.model import BaseModel, Precision, from_memory, like_gpus
from autopeft.model.precision import make_current
from autopeft.pipeline import computing
from autopeft.pipeline.prepare import prepare
from autopeft.pipeline.resuming import keep_wave, resumed
from autopeft.pipeline.turns import one_at_a_time
from autopeft.pipeline.working import check_executor, start_workers
from autopeft.records import ExecutionSpec, with_setting
from autopeft.store import RunDir
from autopeft.train import Compute

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
        ({"executor": "process", "workers": "auto"}, named(0, 1, 2, 3), 4),
        ({"executor": "process", "workers": 8}, named(0, 1, 2, 3), 8),
        ({"executor": "process", "workers": 2}, named(0, 1), 2),
        ({"executor": "process", "device": "cuda"}, ("cuda",), 1),
        ({"executor": "process", "device": "cuda:1,3"}, named(1, 3), 2),
        ({"executor": "process", "device": "cuda:1,3", "workers": 1}, named(1, 3), 2),
        ({"executor": "ray", "workers": 2}, (None,), 2),
        ({}, (None,), 1),
    ],
)
def test_processes_are_spread_over_all_gpus(settings, devices, n_workers, see_gpus):
    see_gpus(CARD, CARD, CARD, CARD)
    execution = run_spec(**settings).execution
    assert (computing.worker_devices(execution), computing.n_workers(execution)) == (devices, n_workers)


def test_gpus_unlike_the_first_are_left_out(see_gpus):
    see_gpus(CARD, ("T400", 2 * GIB), CARD, ("H100", 94 * GIB))
    assert like_gpus() == named(0, 2)
    see_gpus()
    assert like_gpus() == ()


def test_gpus_whose_driver_is_too_old_are_told_and_left_alone(tmp_path, monkeypatch):
    """As torch has it then: it counts them by another library, and raises where they are used."""

    def refuse(index):
        raise RuntimeError("The NVIDIA driver on your system is too old")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    for name in ("get_device_properties", "get_device_name"):
        monkeypatch.setattr(torch.cuda, name, refuse)
    assert like_gpus() == ()
    for executor in ("serial", "process"):
        check_executor(run_spec(executor=executor))
    (check,) = [check for check in diagnose(tmp_path) if check.name == "GPUs"]
    assert (check.status, "can use none" in check.value, "driver" in check.remedy) == ("note", True, True)


@pytest.mark.parametrize(("n_threads", "n_workers"), [(1, 1), (2, 1), (4, 2), (7, 3), (64, 4)])
@pytest.mark.parametrize("device", [None, "cpu"])
def test_processes_on_a_cpu_get_two_threads_each_at_least(device, n_threads, n_workers, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: n_threads)
    assert computing.n_workers(run_spec(executor="process", device=device).execution) == n_workers
    assert computing.n_workers(run_spec(device=device).execution) == 1


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({}, "3 GPUs are visible, and one is used: --executor process uses all of them."),
        (
            {"executor": "process"},
            "Workers: 3, on cuda:0, cuda:1, cuda:2; --workers and --device change that.",
        ),
        ({"executor": "process", "workers": 6}, "Workers: 6, on cuda:0, cuda:1, cuda:2; --workers"),
        ({"device": "cuda:1"}, None),
        ({"executor": "process", "device": "cuda:1,2", "workers": 2}, None),
    ],
)
def test_what_was_not_asked_for_is_told_in_one_line(settings, told, see_gpus, caplog):
    caplog.set_level("INFO")
    see_gpus(CARD, CARD, CARD)
    check_executor(run_spec(**settings))
    assert len(caplog.messages) == (told is not None)
    assert (told or "") in caplog.text


def test_one_gpu_is_not_talked_about(see_gpus, caplog):
    caplog.set_level("INFO")
    see_gpus(CARD)
    check_executor(run_spec())
    assert caplog.messages == []


@pytest.mark.parametrize(("given", "n_workers"), [({}, 2), ({"workers": "auto"}, 2), ({"workers": 6}, 6)])
def test_a_resumed_run_is_spread_over_the_gpus_of_its_new_machine(given, n_workers, see_gpus, tmp_path):
    see_gpus(*[CARD] * 8)
    spec = run_spec(out=tmp_path / "run", executor="process", trials=4)
    with RunDir.create(tmp_path / "run", resume=False) as run:
        run.write_spec(spec)
        assert keep_wave(run, computing.wave(spec.execution)) == 8
    see_gpus(CARD, CARD)
    requested = run_spec(out=tmp_path / "run", **given)
    again = resumed(requested, frozenset(f"execution.{name}" for name in given)).execution
    assert computing.n_workers(again) == n_workers
    assert keep_wave(RunDir.open(tmp_path / "run"), computing.wave(again)) == 8
    assert computing.worker_devices(again) == named(0, 1)


@pytest.mark.parametrize(
    ("settings", "n_bits", "gib"),
    [
        ({"executor": "process", "workers": 4, "device": "cuda:0"}, 0, 15),  # of 52 free and 8 of its own
        ({"executor": "process", "workers": 4, "device": "cuda:0"}, 4, 13),  # its own stay
        ({"executor": "process", "workers": 4, "device": "cuda"}, 0, 15),
        ({"executor": "process", "workers": 3, "device": "cuda:0,1"}, 0, 30),
        ({"executor": "process", "workers": 4, "device": "cuda:0", "memory": "28GiB"}, 0, 7),
        ({"executor": "process", "workers": 2, "device": "cuda:0,1"}, 0, None),
        ({"executor": "process"}, 0, None),  # one on each of two
        ({"executor": "process"}, 4, 52),  # one of them beside those of this process
        ({"executor": "ray", "workers": 2, "device": "cuda"}, 4, 52),
        ({"device": "cuda:0"}, 4, None),
        ({"executor": "process", "workers": 4}, 0, 30),
        ({"executor": "process", "workers": 1}, 0, None),
        ({"executor": "process", "device": "cuda:0,1", "memory": "28GiB"}, 0, 28),
        ({"executor": "ray", "workers": 4, "device": "cuda"}, 0, None),  # gives each a GPU
        ({"workers": 4, "device": "cuda:0"}, 0, None),
    ],
)
def test_workers_on_one_gpu_share_its_memory(settings, n_bits, gib, see_gpus, monkeypatch):
    see_gpus(CARD, CARD)

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
        start_workers(executor, run, prepared, prepared.bench)
    is_left = kind == "cuda" and not shares_memory
    assert (executor.kept_bytes == 0) == is_left
    assert released[-2:] == (["weights", "cache"] if is_left else [])
    assert executor.uses_gpu == (kind == "cuda")
    assert executor.make.spec.execution.memory_bytes == 7 * GIB
    assert executor.make.devices == (None,)
    assert prepared.base.sha256() == before


def test_workers_get_whole_paths_that_keep_the_names_of_links(model_dir, tmp_path, monkeypatch):
    """The cache of the hub holds links to files without a suffix; workers run in other folders."""
    rows = [f"{word} {index},{word}" for index, word in enumerate(["good", "bad"] * 30)]
    (tmp_path / "blob").write_text("\n".join(["text,label", *rows]))
    (tmp_path / "train.csv").symlink_to(tmp_path / "blob")
    monkeypatch.chdir(tmp_path)
    prepared = prepare(run_spec(model_dir, tmp_path / "train.csv", max_steps=4, batch_size=8, budget="5%"))
    source = "train.csv,train.csv"
    prepared = replace(prepared, spec=with_setting(prepared.spec, "data.source", source))
    executor = Starting(prepared.bench, shares_memory=True)
    with RunDir.create(tmp_path / "run", resume=False) as run:
        start_workers(executor, run, prepared, prepared.bench)
    assert executor.make.spec.data.source == ",".join([str(tmp_path / "train.csv")] * 2)


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


def test_workers_on_one_gpu_of_another_kind_are_one(monkeypatch):
    """Apple's GPUs have no list of devices: the default device alone says that it is not the CPU."""
    monkeypatch.setattr(computing, "find_device", lambda names: torch.device("mps"))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    assert computing.n_workers(ExecutionSpec(executor="process")) == 1
    assert computing.n_workers(ExecutionSpec(executor="process", device="cpu")) == 4


def test_a_model_in_memory_that_is_spread_over_devices_is_refused(make_base):
    """A parameter on a GPU that is not there has no numbers, and a device."""
    module = make_base("bert").module
    with FakeTensorMode():
        module.classifier.bias = torch.nn.Parameter(torch.empty(2, device="cuda:1"), requires_grad=False)
    settings = {"auto_class": "AutoModelForSequenceClassification", "label_names": ("a", "b")}
    with pytest.raises(ModelError, match=r"is spread over cpu, cuda:1; load it on one device"):
        from_memory(module, None, precision=Precision(), **settings)


def test_a_call_leaves_the_current_gpu_as_it_was(monkeypatch):
    current = [1]
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: current[-1])
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    with pytest.raises(ZeroDivisionError), one_at_a_time(), one_at_a_time():
        make_current(torch.device("cuda:3"))
        assert torch.cuda.current_device() == torch.device("cuda:3")
        raise ZeroDivisionError
    assert torch.cuda.current_device() == 1


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
    monkeypatch.setattr(computing, "limit_memory", lambda device, n_bytes: limits.append((device, n_bytes)))
    settings = {"max_steps": 4, "batch_size": 8, "budget": "5%"}
    prepare(run_spec(model_dir, data_dir, **settings))
    assert limits == []
    prepare(run_spec(model_dir, data_dir, memory="64GiB", **settings))
    assert limits == [(torch.device("cpu"), 64 * GIB)]


@pytest.mark.parametrize(
    ("capability", "quantize", "is_said"),
    [((7, 5), "none", True), ((8, 6), "none", False), ((7, 5), "4bit", False)],
)
def test_whose_gpu_has_no_bfloat16_is_told_so_where_memory_ran_out(
    capability, quantize, is_said, monkeypatch
):
    monkeypatch.setattr(computing, "find_device", lambda names: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)

    @computing.in_memory_of_run("the test")
    def scarce_step(spec):
        raise MemoryError("no more")

    with pytest.raises(ModelError, match="Memory ran out in the test") as refusal:
        scarce_step(run_spec(quantize=quantize))
    assert (
        "This GPU has no bfloat16, so that each weight takes 4 bytes. Lower" in str(refusal.value)
    ) == is_said

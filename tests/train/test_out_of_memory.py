"""Runs that do not fit into memory: cut smaller, recovered from, and never left behind."""

from __future__ import annotations

import gc
from dataclasses import replace

import pytest
import torch
from toys.bases import state_of

from autopeft.train import Compute
from autopeft.types import Status

CPU_ERROR = "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory"
GPU_ERROR = "CUDA out of memory. Tried to allocate 2.00 GiB.\nSecond line"
ROOMY = 10**9


class Scarce:
    """A task in whose calls memory runs out: at more tokens in training, at more rows in evaluation."""

    def __init__(self, task, *, training=ROOMY, evaluation=ROOMY, error=torch.OutOfMemoryError):
        self._task, self._training, self._evaluation, self._error = task, training, evaluation, error
        self.n_refused = 0

    def __getattr__(self, name):
        return getattr(self._task, name)

    def _refuse(self):
        self.n_refused += 1
        raise self._error(CPU_ERROR if self._error is RuntimeError else GPU_ERROR)

    def loss(self, model, batch):
        loss = self._task.loss(model, batch)  # first, so that tensors are alive where memory runs out
        if torch.is_grad_enabled() and batch["input_ids"].numel() > self._training:
            self._refuse()
        return loss

    def evaluate(self, model, batches, **options):
        def passed():
            for batch in batches:
                yield batch if len(batch["labels"]) <= self._evaluation else self._refuse()

        return self._task.evaluate(model, passed(), **options)


@pytest.fixture
def scarce(make_base, make_bench, task):
    """A function: room -> a bench of eight rows a step, without dropout, whose draws depend on the cut."""

    def scarce(**room):
        return make_bench(base=make_base("bert"), task=Scarce(task, **room))

    return scarce


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, RuntimeError, MemoryError])
def test_plan_that_never_fits_is_out_of_memory_and_the_base_model_stays(error, scarce, make_plan, fidelity):
    bench = scarce(training=0, error=error)
    digest, before = bench.base.sha256(), state_of(bench.base.module)
    seen = bench.measure(make_plan(bench.base, "lora"), fidelity())
    assert (seen.status, seen.metric, seen.loss) == (Status.OUT_OF_MEMORY, None, None)
    assert bench.task.n_refused == 4  # tried again at half the rows, at a quarter, and checkpointed
    assert (bench.base.sha256(), state_of(bench.base.module)) == (digest, before)


def test_run_that_does_not_fit_starts_anew_in_half_micro_batches_as_later_ones(scarce, make_plan, fidelity):
    bench, roomy = scarce(training=80), scarce()
    plan = make_plan(bench.base, "lora")
    seen, unbroken = (chosen.measure(plan, fidelity()) for chosen in (bench, roomy))
    assert (seen.status, seen.trained_steps) == (Status.COMPLETE, 6)
    assert seen.loss == pytest.approx(unbroken.loss, abs=1e-5)
    assert bench.task.n_refused == 1
    again = replace(bench).measure(plan, fidelity(seed=3))
    assert (again.status, bench.task.n_refused) == (Status.COMPLETE, 1)


def test_a_plan_that_smaller_pieces_do_not_help_leaves_later_ones_as_they_were(scarce, make_plan, fidelity):
    bench = scarce(training=0, evaluation=0)
    plan = make_plan(bench.base, "lora")
    for seed in range(3):
        bench.measure(plan, fidelity(seed=seed))
        assert bench.compute == bench.compute.of(plan) == Compute()
    with pytest.raises(MemoryError):
        bench.evaluate(bench.base.module, "search")
    assert bench.compute.max_eval_tokens is None


class Greedy(Scarce):
    """Memory runs out for models with DoRA alone, whose norms keep much, unless they are checkpointed."""

    def loss(self, model, batch):
        is_greedy = any("lora_magnitude_vector" in name for name, _ in model.named_parameters())
        is_checkpointed = any(getattr(part, "gradient_checkpointing", False) for part in model.modules())
        return (super() if is_greedy and not is_checkpointed else self._task).loss(model, batch)


def dora(bench, make_plan, **choices):
    """A plan of LoRA with magnitudes at every target module."""
    plan = make_plan(bench.base, "lora", **choices)
    options = {**dict(plan.adapters[0].options), "dora": True}
    return make_plan(bench.base, [replace(a, options=tuple(options.items())) for a in plan.adapters])


@pytest.mark.parametrize(("room", "n_refused", "checkpointing"), [(40, 2, False), (0, 3, True)])
def test_a_greedy_kind_of_plan_leaves_the_others_as_they_were(
    room, n_refused, checkpointing, scarce, make_plan, fidelity
):
    bench = scarce()
    bench = replace(bench, task=Greedy(bench.task._task, training=room), compute=Compute())
    plain, greedy, larger = (
        make_plan(bench.base, "lora"),
        dora(bench, make_plan),
        dora(bench, make_plan, rank=4),
    )
    assert bench.measure(greedy, fidelity()).status is Status.COMPLETE
    assert bench.task.n_refused == n_refused
    assert bench.compute.of(larger) == bench.compute.of(greedy) != Compute()
    assert bench.compute.of(greedy).checkpointing is checkpointing
    bench.measure(larger, fidelity())
    bench.measure(plain, fidelity())
    assert bench.task.n_refused == n_refused
    assert bench.compute == bench.compute.of(plain) == Compute()


def test_evaluation_goes_on_with_fewer_rows(scarce, make_plan, fidelity):
    bench, roomy = scarce(evaluation=7), scarce()
    plan = make_plan(bench.base, "lora")
    seen, unbroken = (chosen.measure(plan, fidelity()) for chosen in (bench, roomy))
    assert seen.example_scores == unbroken.example_scores
    assert seen.loss == pytest.approx(unbroken.loss, abs=1e-6)
    n_refused = bench.task.n_refused
    assert n_refused >= 2  # 24 rows, then half of their tokens, and half again
    assert bench.measure(plan, fidelity(seed=3)).status is Status.COMPLETE
    assert bench.task.n_refused == n_refused


def test_evaluation_that_does_not_fit_at_all_costs_no_second_training(scarce, make_plan, fidelity):
    bench = scarce(evaluation=0)
    plan = make_plan(bench.base, "lora")
    seen = bench.measure(plan, fidelity())
    assert seen.status is Status.OUT_OF_MEMORY
    assert "--max-length" in seen.error
    assert 3 <= bench.task.n_refused <= 8  # down to the tokens of the largest row
    assert bench.compute == bench.compute.of(plan) == Compute()


def alive():
    gc.collect()
    return sum(issubclass(type(found), torch.Tensor) for found in gc.get_objects())


@pytest.mark.parametrize("room", [{}, {"training": 0}], ids=["complete", "out of memory"])
def test_trials_leave_no_tensor_behind(room, scarce, make_plan, fidelity):
    bench = scarce(**room)
    plan = make_plan(bench.base, "lora")
    bench.measure(plan, fidelity(train_steps=2))  # what is computed once for all trials
    before = alive()
    for seed in range(6):
        bench.measure(plan, fidelity(train_steps=2, seed=seed))
    assert alive() == before

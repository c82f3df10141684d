"""Runs that do not fit into memory: cut smaller, recovered from, and never left behind."""

from __future__ import annotations

import gc
from dataclasses import replace

import pytest
import torch
from toys.bases import state_of

from autopeft.records import Status
from autopeft.train import Compute

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
    assert seen.error == "out of memory: lower --micro-batch-tokens, --max-length or --batch-size"
    assert bench.task.n_refused == 4  # tried again at half the rows, at a quarter, and checkpointed
    assert (bench.base.sha256(), state_of(bench.base.module)) == (digest, before)


def test_run_that_does_not_fit_starts_anew_in_half_micro_batches_as_later_ones(scarce, make_plan, fidelity):
    bench, roomy = scarce(training=80), scarce()
    plan = make_plan(bench.base, "lora")
    seen, unbroken = (chosen.measure(plan, fidelity()) for chosen in (bench, roomy))
    assert (seen.status, seen.trained_steps) == (Status.COMPLETE, 6)
    assert seen.loss == pytest.approx(unbroken.loss, abs=1e-5)
    assert bench.task.n_refused == 1
    again = replace(bench, rung_steps=(6,)).measure(plan, fidelity(seed=3))
    assert (again.status, bench.task.n_refused) == (Status.COMPLETE, 1)


def test_a_plan_that_smaller_pieces_do_not_help_leaves_later_ones_as_they_were(scarce, make_plan, fidelity):
    bench = scarce(training=0, evaluation=0)
    for seed in range(3):
        bench.measure(make_plan(bench.base, "lora"), fidelity(seed=seed))
        assert bench.compute == Compute()
    with pytest.raises(MemoryError):
        bench.evaluate(bench.base.module, "search")
    assert bench.compute.max_eval_tokens is None


def test_outputs_of_frozen_layers_give_way_before_micro_batches(scarce, make_plan, fidelity):
    bench = scarce(training=80)
    last = [a for a in make_plan(bench.base, "lora").adapters if ".1." in a.site]
    bench.frozen_outputs.n_bytes = 1  # as if a plan before had left some
    seen = bench.measure(make_plan(bench.base, last), fidelity())
    assert (seen.status, bench.task.n_refused) == (Status.COMPLETE, 2)
    assert bench.frozen_outputs.max_bytes == 0


def test_what_frozen_layers_give_is_kept_again_where_that_was_no_help(scarce, make_plan, fidelity):
    bench = scarce(training=0)
    before, bench.frozen_outputs.n_bytes = bench.frozen_outputs.max_bytes, 1
    bench.measure(make_plan(bench.base, "lora"), fidelity())
    assert bench.frozen_outputs.max_bytes == before > 0


@pytest.mark.parametrize(("room", "n_refused", "checkpointing"), [(80, 1, False), (40, 2, False)])
def test_micro_batches_are_halved_twice_at_most(room, n_refused, checkpointing, scarce, make_plan, fidelity):
    bench = scarce(training=room)
    seen = bench.measure(make_plan(bench.base, "lora"), fidelity())
    assert (seen.status, bench.task.n_refused) == (Status.COMPLETE, n_refused)
    assert bench.compute.checkpointing is checkpointing


def test_layers_are_checkpointed_where_smaller_batches_are_not_enough(scarce, make_plan, fidelity):
    """Room for the inputs of layers, though not for all that one row keeps."""
    bench = scarce()
    plan = make_plan(bench.base, "lora")
    unbroken = bench.measure(plan, fidelity())

    class Shallow(Scarce):
        def loss(self, model, batch):
            loss = self._task.loss(model, batch)
            is_checkpointed = any(getattr(part, "gradient_checkpointing", False) for part in model.modules())
            if torch.is_grad_enabled() and not is_checkpointed:
                self._refuse()
            return loss

    bench = replace(bench, task=Shallow(bench.task._task), compute=Compute())
    seen = bench.measure(plan, fidelity())
    assert (seen.status, bench.task.n_refused, bench.compute.checkpointing) == (Status.COMPLETE, 3, True)
    assert seen.loss == pytest.approx(unbroken.loss, abs=1e-5)


def test_single_rows_that_do_not_fit_are_checkpointed_alone(scarce, make_plan, fidelity):
    bench = replace(scarce(training=0), compute=Compute(micro_batch_tokens=1))
    seen = bench.measure(make_plan(bench.base, "lora"), fidelity())
    assert (seen.status, bench.task.n_refused) == (Status.OUT_OF_MEMORY, 2)


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
    seen = bench.measure(make_plan(bench.base, "lora"), fidelity())
    assert seen.status is Status.OUT_OF_MEMORY
    assert seen.error == "out of memory at a single row: lower --max-length, or pass --quantize 4bit"
    assert 3 <= bench.task.n_refused <= 8  # down to the tokens of the largest row
    assert bench.compute.micro_batch_tokens is None


def alive():
    gc.collect()
    return sum(issubclass(type(found), torch.Tensor) for found in gc.get_objects())


@pytest.mark.parametrize("room", [{}, {"training": 0}], ids=["complete", "out of memory"])
def test_trials_leave_no_tensor_behind(room, scarce, make_plan, fidelity):
    bench = scarce(**room)
    bench.batches.max_bytes = 0  # each seed has batches of its own
    plan = make_plan(bench.base, "lora")
    bench.measure(plan, fidelity(train_steps=2))  # what is computed once for all trials
    before = alive()
    for seed in range(20):
        bench.measure(plan, fidelity(train_steps=2, seed=seed))
    assert alive() == before

"""Micro-batches: how steps are cut, and that the cut changes no gradient."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim.optimizer import register_optimizer_step_pre_hook
from toys.tasks import TOYS, make_toy

from autopeft.plugins import discover
from autopeft.train import Compute, loop
from autopeft.train.compute import micro_batches
from autopeft.train.loop import TrainingRun, train
from autopeft.train.rates import RateSchedule

TASKS = discover("autopeft.tasks")


class Recorder:
    """Keeps the gradients, in float64, with which AdamW would take its first step."""

    def __init__(self, module):
        self.gradients = {}
        self._names = {parameter: name for name, parameter in module.named_parameters()}
        self._handle = register_optimizer_step_pre_hook(self._note)

    def _note(self, optimizer, args, kwargs):
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self.gradients[self._names[parameter]] = parameter.grad.double()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._handle.remove()


def trained_gradients(toy, parts, examples, labels):
    """The clipped gradients of one step whose rows are cut into parts."""

    def batch(rows):
        made = toy.task.collate([examples[i] for i in rows], [labels[i] for i in rows], 0)
        return made, toy.task.n_terms(made)

    run = TrainingRun(
        steps=[parts],
        sizes=np.array([len(example.get("input_ids", "x")) for example in examples]),
        batch=batch,
        loss=toy.task.loss,
        schedule=RateSchedule(n_steps=1, n_full=1),
        seed=0,
    )
    groups = [{"params": list(toy.module.parameters()), "lr": 0.0}]
    with Recorder(toy.module) as seen:
        train(toy.module.requires_grad_(True), groups, run, device=torch.device("cpu"))
    return seen.gradients


def reference_gradients(toy, examples, labels):
    """The gradients of the mean loss over all rows, clipped at a norm of 1, without the training loop."""
    toy.module.train().zero_grad()
    toy.task.loss(toy.module, toy.task.collate(examples, labels, 0)).backward()
    gradients = {n: p.grad.double() for n, p in toy.module.named_parameters() if p.grad is not None}
    norm = torch.stack([g.norm() for g in gradients.values()]).norm()
    toy.module.zero_grad()
    return {name: gradient / max(1.0, float(norm)) for name, gradient in gradients.items()}


@pytest.mark.parametrize("part", [TASKS[name] for name in TOYS], ids=TOYS)
def test_gradients_of_micro_batches_are_those_of_the_whole_batch(part, tokenizer):
    toy = make_toy(part, tokenizer)
    made = toy.encoded()
    examples, labels = made.examples[:7], list(made.labels[:7])
    if isinstance(labels[2], np.ndarray) and -100 in labels[0]:
        labels[2] = [-100] * len(labels[2])  # prompts alone: a micro-batch without any label
    whole = reference_gradients(toy, examples, labels)
    for parts in ([[0, 1, 2, 3, 4, 5, 6]], [[0, 1], [2], [3, 4, 5, 6]], [[i] for i in range(7)]):
        cut = trained_gradients(toy, parts, examples, labels)
        assert cut.keys() == whole.keys()
        for name, gradient in whole.items():
            torch.testing.assert_close(cut[name], gradient, atol=1e-6, rtol=0)


@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=20), max_tokens=st.none() | st.integers(1, 99)
)
def test_micro_batches_keep_the_order_and_hold_as_many_rows_as_fit(lengths, max_tokens):
    parts = micro_batches(range(len(lengths)), np.array(lengths), max_tokens=max_tokens)
    assert [row for part in parts for row in part] == list(range(len(lengths)))
    for part, following in zip(parts, [*parts[1:], [0]], strict=True):
        n_tokens = len(part) * max(lengths[row] for row in part)
        assert max_tokens is None or len(part) == 1 or n_tokens <= max_tokens
        longer = max(lengths[row] for row in (*part, following[0])) * (len(part) + 1)
        assert part is parts[-1] or (max_tokens is not None and longer > max_tokens)


def test_bench_cuts_its_steps_and_counts_the_bytes_of_one_micro_batch(
    make_bench, make_base, make_plan, fidelity
):
    base = make_base("bert")  # without dropout, whose draws depend on the cut
    plan = make_plan(base, "lora")
    whole, cut = (make_bench(base=base, compute=Compute(micro_batch_tokens=n)) for n in (None, 20))
    seen, parts = (bench.measure(plan, fidelity(train_steps=20)) for bench in (whole, cut))
    assert parts.loss == pytest.approx(seen.loss, abs=1e-5)
    state_bytes = 12 * (plan.trainable_params + base.head_params)
    assert state_bytes < parts.peak_bytes < state_bytes + (seen.peak_bytes - state_bytes) / 2


def test_on_a_gpu_the_allocator_knows_the_most_memory(make_bench, make_plan, fidelity, monkeypatch):
    bench, resets = make_bench(), []
    monkeypatch.setattr(loop, "devices_of", lambda model: [torch.device("cuda:0"), torch.device("cuda:1")])
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda gpu: 10_000_000)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda gpu: 10_000_000 * (gpu.index + 2))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", resets.append)
    seen = bench.measure(make_plan(bench.base, "lora"), fidelity(train_steps=1))
    assert seen.peak_bytes == 50_000_000 - 20_000_000
    assert [gpu.index for gpu in resets] == [0, 1]

"""A pass where memory runs out."""

from __future__ import annotations

import pytest
import torch
from toys.sensitivity import run_scores

from autopeft.errors import SpecError

NAMES = ["fisher", "parameters"]


class LimitedLoss:
    """A task that holds at most so many examples at once, as a small memory would."""

    peft_task_type = "SEQ_CLS"

    def __init__(self, task, *, max_examples):
        self._task, self._max_examples = task, max_examples

    def loss(self, model, batch):
        if len(batch["labels"]) > self._max_examples:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return self._task.loss(model, batch)


class _Exhausted(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")


class LimitedBackward:
    """Lets memory run out in the backward pass, between a BERT's second layer and its first."""

    def __init__(self, base, *, max_examples):
        self._layer = base.module.bert.encoder.layer[0]
        self._max_examples, self.n_stopped = max_examples, 0

    def __enter__(self):
        self._hook = self._layer.register_forward_hook(self._watch)
        return self

    def __exit__(self, *error):
        self._hook.remove()

    def _watch(self, module, args, output):
        hidden = output[0] if isinstance(output, tuple) else output
        if len(hidden) > self._max_examples and hidden.requires_grad:
            self.n_stopped += 1
            return _Exhausted.apply(hidden) if hidden is output else (_Exhausted.apply(hidden), *output[1:])
        return None


def assert_same_values(scores, others):
    for first, second in zip(scores, others, strict=True):
        assert first.values == pytest.approx(second.values, rel=1e-4)


def test_batch_that_does_not_fit_is_split(bert, task, make_batch):
    batches = [make_batch(seed=i) for i in range(2)]
    seen = run_scores(NAMES, bert, batches, task=LimitedLoss(task, max_examples=2))
    assert seen.n_examples == 12
    assert_same_values(seen.scores, run_scores(NAMES, bert, batches, task=task).scores)


def test_batch_of_more_tokens_than_a_micro_batch_is_split(bert, task, make_batch):
    batches = [make_batch(seed=i) for i in range(2)]
    n_tokens = batches[0]["input_ids"].shape[1]
    limit = 2 * n_tokens  # of six rows; the other batch is as long or shorter
    assert batches[1]["input_ids"].shape[1] <= n_tokens
    limited = LimitedLoss(task, max_examples=3)  # memory would run out at a whole batch
    seen = run_scores(NAMES, bert, batches, task=limited, max_tokens=limit)
    assert_same_values(seen.scores, run_scores(NAMES, bert, batches, task=task).scores)


def test_what_was_counted_before_memory_ran_out_is_not_counted_again(bert, task, make_batch):
    batches = [make_batch(seed=i) for i in range(2)]
    with LimitedBackward(bert, max_examples=3) as limited:
        scores = run_scores(NAMES, bert, batches, task=task).scores
    assert limited.n_stopped == 2  # once in each batch
    assert_same_values(scores, run_scores(NAMES, bert, batches, task=task).scores)


def test_one_example_that_does_not_fit_is_an_error(bert, task, make_batch):
    with pytest.raises(SpecError, match="--max-length"):
        run_scores(["fisher"], bert, [make_batch(2), make_batch(2)], task=LimitedLoss(task, max_examples=0))

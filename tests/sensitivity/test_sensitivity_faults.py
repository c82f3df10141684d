"""Passes that fail: losses that are not finite, errors, and memory that runs out; the model is as it was."""

from __future__ import annotations

import pytest
import torch
from toys.bases import state_of
from toys.sensitivity import SCORES, FirstLayerLoss, run_scores, values_by_target

from autopeft.errors import DataError, SpecError

READING = [name for name in SCORES if SCORES[name].reads_examples]


class FaultyLoss:
    """A task with a second loss that raises an error or is multiplied by a factor."""

    peft_task_type = "SEQ_CLS"

    def __init__(self, task, *, error=None, factor=1.0):
        self._task, self._error, self._factor, self._n_calls = task, error, factor, 0

    def loss(self, model, batch):
        self._n_calls += 1
        if self._n_calls == 2 and self._error:
            raise self._error
        return self._task.loss(model, batch) * (self._factor if self._n_calls == 2 else 1.0)


def test_model_is_left_as_found_after_an_error(make_base, task, make_batch):
    base = make_base("bert")
    base.module.train()
    base.module.bert.pooler.eval()
    base.module.bert.pooler.dense.weight.requires_grad_(True)
    before, digest = state_of(base.module), base.sha256()
    faulty = FaultyLoss(task, error=ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        run_scores(READING, base, [make_batch(seed=i) for i in range(3)], task=faulty)
    assert (state_of(base.module), base.sha256()) == (before, digest)


def test_loss_that_is_not_finite_names_the_batch(bert, task, make_batch):
    batches = [make_batch(seed=i) for i in range(3)]
    with pytest.raises(DataError, match="batch 2"):
        run_scores(["fisher"], bert, batches, task=FaultyLoss(task, factor=float("nan")))


def test_targets_without_a_gradient_path_are_listed_and_score_0(bert, make_batch):
    batches = [make_batch(), make_batch()]
    seen = run_scores(["fisher"], bert, batches, task=FirstLayerLoss())
    names = [target.name for target in bert.targets]
    beyond = {name for name in names if ".layer.1." in name or "pooler" in name}
    assert set(seen.unreachable) == beyond
    values = values_by_target(bert, seen.scores[0])
    assert all((values[name] == 0) == (name in beyond) for name in names)


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

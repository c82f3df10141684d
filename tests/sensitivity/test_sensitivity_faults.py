"""Losses and weights that are not finite, and the state of the model after a pass."""

from __future__ import annotations

import pytest
from toys.bases import state_of
from toys.sensitivity import SCORES, FirstLayerLoss, run_scores, values_by_target

from autopeft.errors import DataError

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

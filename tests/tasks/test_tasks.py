"""The contract of a task type, and the scores of text classification."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers
from peft import PeftModel
from torch import nn
from toys.tasks import TOYS, make_toy
from toys.words import CONTEXT, toy_rows

from autopeft.errors import DataError, UnknownNameError
from autopeft.model import BaseModel
from autopeft.plugins import LabelSpace, Task, discover
from autopeft.train import Bench, EncodedSplit
from autopeft.types import TaskSpec

TASKS = discover("autopeft.tasks")
by_task = pytest.mark.parametrize("part", TASKS.values(), ids=TASKS)


class Oracle(nn.Module):
    """Gives fixed logits, row by row, whatever its input is."""

    def __init__(self, logits):
        super().__init__()
        self.rows = iter(logits)

    def forward(self, input_ids, **others):
        return SimpleNamespace(logits=torch.stack([next(self.rows) for _ in input_ids]))


@pytest.fixture
def toy(part, tokenizer):
    """The toy of a task."""
    return make_toy(part, tokenizer)


@pytest.fixture
def rows(tokenizer):
    """A function: task -> 20 encoded texts of different lengths, and their labels."""

    def rows(task):
        texts, labels = toy_rows(20, seed=3)
        return task.encode([[text] for text in texts], labels, tokenizer, CONTEXT).examples, labels

    return rows


@by_task
def test_part_meets_the_protocol(part):
    assert isinstance(part, Task)
    assert callable(part.read_rows) and part.metric.name in part.metrics
    assert hasattr(transformers, part.auto_class)
    assert part.name in TOYS


@by_task
def test_loss_is_a_number_with_a_gradient_for_every_weight_it_needs(toy):
    (batch,) = toy.batches(100)
    loss = toy.task.loss(toy.module, batch)
    loss.backward()
    assert loss.shape == ()
    assert all(p.grad.abs().sum() > 0 for p in list(toy.module.parameters())[-2:])


@by_task
def test_loss_of_a_batch_is_the_mean_over_its_rows_weighted_with_their_terms(toy):
    (batch,) = toy.batches(100)
    rows = [{name: tensor[i : i + 1] for name, tensor in batch.items()} for i in range(len(batch["labels"]))]
    n_terms, losses = zip(
        *((toy.task.n_terms(row), toy.task.loss(toy.module, row).item()) for row in rows), strict=True
    )
    assert toy.task.n_terms(batch) == sum(n_terms) >= len(rows)
    assert toy.task.loss(toy.module, batch).item() == pytest.approx(
        np.average(losses, weights=n_terms), abs=1e-6
    )


@by_task
def test_loss_without_any_term_is_0_with_gradients_of_0(toy):
    (batch,) = toy.batches(100)
    batch["labels"] = torch.full_like(batch["labels"], -100)
    if toy.task.n_terms(batch):  # each row is a term
        return
    loss = toy.task.loss(toy.module.requires_grad_(True), batch)
    loss.backward()
    assert loss == 0
    assert all(p.grad is None or (p.grad == 0).all() for p in toy.module.parameters())


@by_task
def test_evaluation_keeps_no_gradient_and_has_one_score_per_example_with_the_metric_as_mean(toy):
    n = len(toy.encoded().labels)
    seen = toy.task.evaluate(toy.module, iter(toy.batches(6)))
    assert len(seen.example_scores) == n >= 5
    span = toy.task.metric.score_span
    assert span is None or np.ptp(seen.example_scores) <= span
    assert seen.metric == pytest.approx(np.mean(seen.example_scores), abs=1e-9)
    assert all(p.grad is None for p in toy.module.parameters())


@by_task
def test_neither_batch_size_nor_padding_changes_what_is_measured(toy):
    singly, together = (toy.task.evaluate(toy.module, iter(toy.batches(n))) for n in (1, 100))
    assert together.loss == pytest.approx(singly.loss, abs=1e-6)
    assert together.metric == pytest.approx(singly.metric, abs=1e-6)
    np.testing.assert_allclose(together.example_scores, singly.example_scores, atol=1e-5)


@by_task
def test_a_tokenizer_that_pads_on_the_left_changes_no_batch(toy):
    """Batches are padded on the right whatever the tokenizer's side is."""
    (batch,), toy.tokenizer = toy.batches(100), copy.deepcopy(toy.tokenizer)
    toy.tokenizer.padding_side = "left"
    (other,) = toy.batches(100)
    assert all(torch.equal(batch[name], other[name]) for name in batch)


@by_task
def test_unknown_metric_and_target_of_another_task_are_refused(toy, part):
    with pytest.raises(UnknownNameError, match="beauty"):
        part.fitted(TaskSpec(metric="beauty"), toy.task.label_space)
    with pytest.raises(DataError, match="smells"):
        part.fitted(TaskSpec(), LabelSpace(kind="smells"))


@by_task
def test_plan_is_trained_kept_and_read_again(toy, part, methods, make_plan, fidelity, tmp_path):
    heads = ("classifier.", "score.")
    fresh = copy.deepcopy(toy.module)
    untrained = frozenset(name for name in toy.module.state_dict() if name.startswith(heads))
    base = BaseModel(toy.module, toy.tokenizer, name=f"toy of {part.name}", untrained=untrained)
    made = toy.encoded()
    split = EncodedSplit(examples=made.examples, labels=made.labels)
    bench = Bench(
        base=base,
        task=toy.task,
        methods=methods,
        splits=dict.fromkeys(("train", "search", "confirm", "test"), split),
        batch_size=4,
        keep_weights=lambda plan, seed: tmp_path / str(seed),
    )
    plan = make_plan(base, "lora")
    search, confirm, test = (bench.measure(plan, fidelity(split=s)) for s in ("search", "confirm", "test"))
    assert (search.error, confirm.error, test.error) == (None, None, None)
    assert len(confirm.example_scores) == 20
    assert test.example_scores == pytest.approx(confirm.example_scores, abs=1e-5)
    assert confirm.loss == pytest.approx(test.loss, abs=1e-6)
    (folder,) = tmp_path.iterdir()
    loaded = PeftModel.from_pretrained(fresh, folder).eval()  # by plain peft
    assert toy.task.evaluate(loaded, iter(toy.batches(6))).loss == pytest.approx(confirm.loss, abs=1e-5)


def test_scores_are_in_fp32_whatever_the_model_computes_in(task, rows):
    examples, labels = rows(task)
    half = (nn.functional.one_hot(torch.tensor(labels)) * 3.0).bfloat16()
    loss = task.loss(Oracle(half), task.collate(examples, labels, 0))
    assert loss.dtype == torch.float32
    assert float(loss) == pytest.approx(torch.log1p(torch.exp(torch.tensor(-3.0))).item(), rel=1e-5)

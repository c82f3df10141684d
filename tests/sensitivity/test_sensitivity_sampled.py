"""Labels that are no classes, drawn from the model's predictions: against closed forms and enumeration."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
import transformers
from toys import architectures as model_toys
from toys.sensitivity import Predicting, score_by_site, squares_of, weights_of

from autopeft.extension import DrawsLabels, Target, discover
from autopeft.model import BaseModel
from autopeft.records import TaskSpec
from autopeft.sensitivity.passes.labels import with_drawn_labels

TASKS = discover("autopeft.tasks")
NUMBER = Target(kind="number", names=("score",))
SEVERAL = Target(kind="classes", names=("a", "b", "c"))
N_DRAWS = 20_000  # of each text: the mean of squares of normal draws is off by 1 % then


def fitted(target, name="text-classification"):
    return TASKS[name].fitted(TaskSpec(), target)


def toy(n_outputs):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = transformers.BertForSequenceClassification(
            transformers.BertConfig(**model_toys.TEXT | {"num_hidden_layers": 1}, num_labels=n_outputs)
        )
    return BaseModel(module.eval(), None, name="toy bert", untrained=frozenset())


def two_texts(labels):
    words = torch.randint(4, model_toys.V, (2, 5), generator=torch.Generator().manual_seed(1))
    return {"input_ids": words, "attention_mask": torch.ones_like(words), "labels": labels}


def repeated(batch, n):
    return {name: value.repeat(n, *[1] * (value.ndim - 1)) for name, value in batch.items()}


def sampled_fisher(base, task, batch):
    batches = [repeated(batch, N_DRAWS // 8)] * 8
    return score_by_site("fisher_sampled", base, batches, task=task, enough=1.1)


def test_sampled_fisher_of_numbers_is_four_times_the_squared_gradient_of_the_prediction():
    """E[(2 (f - y) f')²] = 4 f'² for y of variance 1 about f: in closed form, whatever the true labels."""
    base, task, batch = toy(1), fitted(NUMBER), two_texts(torch.tensor([100.0, -100.0]))

    def prediction(row):
        return base.module(input_ids=batch["input_ids"][row : row + 1]).logits[0, 0]

    first, second = (squares_of(weights_of(base), lambda row=row: prediction(row)) for row in range(2))
    expected = {name: 4 * (first[name] + second[name]) / 2 for name in first}
    assert sampled_fisher(base, task, batch) == pytest.approx(expected, rel=0.03)


def test_sampled_fisher_of_several_labels_is_that_of_all_their_combinations():
    """The sum over all 2³ label vectors of an example, each by its probability, of the squared gradients."""
    base, task, batch = toy(3), fitted(SEVERAL), two_texts(torch.zeros(2, 3))
    expected = {}
    for row, labels in itertools.product(range(2), itertools.product((0.0, 1.0), repeat=3)):
        example = {name: value[row : row + 1] for name, value in batch.items()}
        example["labels"] = torch.tensor([labels])
        with torch.no_grad():
            chances = base.module(input_ids=example["input_ids"]).logits[0].double().sigmoid().numpy()
        chance = np.prod(np.where(np.array(labels) == 1, chances, 1 - chances))
        squares = squares_of(weights_of(base), lambda example=example: task.loss(base.module, example))
        for name, value in squares.items():
            expected[name] = expected.get(name, 0.0) + chance * value / 2
    assert sampled_fisher(base, task, batch) == pytest.approx(expected, rel=0.03)


@pytest.mark.parametrize("name", ["text-classification", "image-classification"])
def test_drawn_numbers_have_variance_one_about_the_prediction(name):
    task = fitted(NUMBER, name)
    assert isinstance(task, DrawsLabels)
    logits = torch.tensor([[-3.0], [5.0]]).repeat(5000, 1)
    labels = torch.zeros(10_000)
    first, again, other = (
        with_drawn_labels({"labels": labels}, Predicting(logits), task=task, seed=seed, index=0)["labels"]
        for seed in (0, 0, 1)
    )
    assert first.shape == labels.shape and torch.equal(first, again) and not torch.equal(first, other)
    errors = (first - logits[:, 0]).numpy()
    assert errors.mean() == pytest.approx(0, abs=0.03) and errors.std() == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("name", ["text-classification", "image-classification"])
def test_drawn_labels_are_independent_coins(name):
    logits = torch.tensor([[-1.0, 0.0, 2.0]]).repeat(10_000, 1)
    labels = torch.zeros(10_000, 3)
    drawn = with_drawn_labels(
        {"labels": labels}, Predicting(logits), task=fitted(SEVERAL, name), seed=0, index=0
    )
    made = drawn["labels"].numpy()
    assert set(np.unique(made)) == {0.0, 1.0}
    np.testing.assert_allclose(made.mean(axis=0), 1 / (1 + np.exp([1.0, 0.0, -2.0])), atol=0.02)
    np.testing.assert_allclose(np.corrcoef(made.T), np.eye(3), atol=0.03)

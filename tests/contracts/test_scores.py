"""The contract of an importance score; `fisher` and `gradient` against brute force by autograd."""

from __future__ import annotations

import math

import pytest
import torch
from conftest import state_of

from autopeft.extension import Score, discover

SCORES = discover("autopeft.sensitivity")
by_score = pytest.mark.parametrize("name", SCORES)
# Filler words per text: with some tokens more, T is on either side of where `fisher` changes its way
# (2 T² against in × out, which is 16 × 16 to 32 × 16 here: T of 11 to 16).
by_length = pytest.mark.parametrize("n_filler", [(1, 5), (15, 25)], ids=["short", "long"])


def measured(base):
    """The sites that scores are asked for: those with a weight of their own."""
    return [site for site in base.sites if site.kind != "model"]


@pytest.fixture
def score(base, task):
    """A function: score's name and batches -> its values at every site of the base model."""

    def score(name, batches, *, seed=0):
        return SCORES[name].score(base.module, batches, measured(base), task=task, seed=seed)

    return score


def squares_and_products(base, task, batch):
    """Per site, the sums of g² and of |w g| over its weights, by plain autograd of a batch's mean loss."""
    weights = {site.name: base.module.get_submodule(site.name).weight for site in measured(base)}
    for weight in weights.values():
        weight.requires_grad_(True)
    grads = torch.autograd.grad(task.loss(base.module, batch), list(weights.values()))
    for weight in weights.values():
        weight.requires_grad_(False)
    pairs = list(zip(weights.items(), grads, strict=True))
    squares = {name: float(g.square().sum()) for (name, _), g in pairs}
    return squares, {name: float((w.detach() * g).abs().sum()) for (name, w), g in pairs}


def single_examples(batch):
    """Each row as a batch of its own, without its padding."""
    for row, n_tokens in enumerate(batch["attention_mask"].sum(dim=1).tolist()):
        features = {name: batch[name][row : row + 1, :n_tokens] for name in ("input_ids", "attention_mask")}
        yield {**features, "labels": batch["labels"][row : row + 1]}


def mean_over(dictionaries):
    return {name: math.fsum(d[name] for d in dictionaries) / len(dictionaries) for name in dictionaries[0]}


@by_score
def test_part_is_a_score_with_a_summary_of_its_own(name):
    assert isinstance(SCORES[name], Score)
    assert SCORES[name].name == name
    assert SCORES[name].summary


@by_score
def test_every_site_has_a_finite_value_that_is_not_negative(name, base, score, make_batch):
    values = score(name, [make_batch(seed=1), make_batch(seed=2)])
    assert set(values) == {site.name for site in measured(base)}
    assert all(math.isfinite(value) and value >= 0 for value in values.values())


@by_score
def test_every_site_that_the_loss_depends_on_has_a_positive_value(name, score, make_batch):
    assert min(score(name, [make_batch()]).values()) > 0


@by_score
def test_same_seed_gives_the_same_values(name, score, make_batch):
    batches = [make_batch()]
    assert score(name, batches, seed=4) == score(name, batches, seed=4)


def test_random_score_depends_on_its_seed(score):
    assert score("random", [], seed=4) != score("random", [], seed=5)


@by_score
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_model_is_left_as_found(name, base, score, make_batch, training):
    base.module.train(training)
    digest, before = base.sha256(), state_of(base.module)
    score(name, [make_batch()])
    assert (base.sha256(), state_of(base.module)) == (digest, before)


@by_score
def test_dropout_is_off_while_scoring(name, make_base, make_batch, task):
    base, batches = make_base("bert", dropout=0.5), [make_batch()]
    base.module.train()
    first, second = (
        SCORES[name].score(base.module, batches, measured(base), task=task, seed=0) for _ in range(2)
    )
    assert first == second


@by_length
def test_fisher_is_the_mean_squared_gradient_of_single_examples(base, task, score, make_batch, n_filler):
    batches = [make_batch(4, seed=1, n_filler=n_filler), make_batch(2, seed=2, n_filler=n_filler)]
    assert any((batch["attention_mask"] == 0).any() for batch in batches)  # some rows are padded
    singles = [single for batch in batches for single in single_examples(batch)]
    expected = mean_over([squares_and_products(base, task, single)[0] for single in singles])
    assert score("fisher", batches) == pytest.approx(expected, rel=1e-4)


@by_length
def test_gradient_is_the_summed_weight_times_gradient_of_batches(base, task, score, make_batch, n_filler):
    batches = [make_batch(4, seed=1, n_filler=n_filler), make_batch(2, seed=2, n_filler=n_filler)]
    expected = mean_over([squares_and_products(base, task, batch)[1] for batch in batches])
    assert score("gradient", batches) == pytest.approx(expected, rel=1e-4)


def test_both_ways_of_fisher_were_taken_by_those_lengths(make_batch):
    short, long = (make_batch(4, seed=1, n_filler=n)["input_ids"].shape[1] for n in ((1, 5), (15, 25)))
    assert 2 * short**2 < 16 * 16 < 32 * 16 < 2 * long**2

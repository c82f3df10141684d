"""The contract of an importance score, and each score against brute force by autograd."""

from __future__ import annotations

import math

import pytest
from scipy import stats
from toys.bases import state_of
from toys.sensitivity import (
    SCORES,
    ModelLoss,
    gradients_of,
    mean_of,
    mean_squares,
    run_scores,
    score_by_target,
    values_by_target,
    weights_of,
)

by_score = pytest.mark.parametrize("name", SCORES)
# Filler words per text: with some tokens more, T is on either side of where `fisher` changes its formula
# (2 T² against in × out, which is 16 × 16 to 32 × 16 here: T of 11 to 16).
by_length = pytest.mark.parametrize("n_filler", [(1, 5), (15, 25)], ids=["short", "long"])


@pytest.fixture
def run(base, task):
    """A function: a score's name and batches -> its record for the base model."""

    def run(name, batches):
        (scores,) = run_scores([name], base, batches, task=task).scores
        return scores

    return run


@pytest.fixture
def score(base, run):
    """A function: a score's name and batches -> its values by target module."""
    return lambda name, batches: values_by_target(base, run(name, batches))


def two_batches(make_batch, n_filler=(1, 9)):
    batches = [make_batch(4, seed=1, n_filler=n_filler), make_batch(2, seed=2, n_filler=n_filler)]
    assert any((batch["attention_mask"] == 0).any() for batch in batches)  # some rows are padded
    return batches


@by_score
def test_every_target_has_a_finite_value_that_is_not_negative(name, base, run, make_batch):
    scores = run(name, [make_batch(seed=1), make_batch(seed=2)])
    assert len(scores.values) == len(base.targets)
    assert all(math.isfinite(value) and value > 0 for value in scores.values)


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
    first, second = (run_scores([name], base, batches, task=task).scores for _ in range(2))
    assert first == second


@by_length
def test_fisher_is_the_mean_squared_gradient_of_single_examples(base, task, score, make_batch, n_filler):
    batches = two_batches(make_batch, n_filler)
    expected = mean_squares(weights_of(base), base, task, batches)
    assert score("fisher", batches) == pytest.approx(expected, rel=1e-4)


@by_length
def test_gradient_is_the_summed_weight_times_gradient_of_batches(base, task, score, make_batch, n_filler):
    batches, weights = two_batches(make_batch, n_filler), weights_of(base)
    expected = []
    for batch in batches:
        gradients = gradients_of(weights, lambda batch=batch: task.loss(base.module, batch))
        expected.append({n: float((weights[n][0] * g[0]).abs().sum()) for n, g in gradients.items()})
    assert score("gradient", batches) == pytest.approx(mean_of(expected, [4, 2]), rel=1e-4)


def test_parameters_are_counted(base, score):
    n_weights = {name: sum(p.numel() for p in of_target) for name, of_target in weights_of(base).items()}
    assert score("parameters", []) == n_weights


def test_both_ways_of_fisher_were_taken_by_those_lengths(make_batch):
    short, long = (make_batch(4, seed=1, n_filler=n)["input_ids"].shape[1] for n in ((1, 5), (15, 25)))
    assert 2 * short**2 < 16 * 16 < 32 * 16 < 2 * long**2


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("architecture", ["bert", "llama-lm"])
def test_scores_of_a_base_in_16_bits_order_the_targets_as_in_float32(
    architecture, dtype, make_base, batch_for
):
    names = sorted(SCORES)
    exact, held = make_base(architecture), make_base(architecture, dtype=dtype)
    loss = ModelLoss("CAUSAL_LM" if architecture.endswith("-lm") else "SEQ_CLS")
    batches = [batch_for(exact)] * 2
    before = held.sha256(), state_of(held.module)
    scores, low = (run_scores(names, base, batches, task=loss).scores for base in (exact, held))
    for first, second in zip(scores, low, strict=True):
        assert stats.spearmanr(first.values, second.values).statistic >= 0.98, first.name
    assert (held.sha256(), state_of(held.module)) == before


def test_even_and_odd_batches_are_compared(bert, task, make_batch):
    batches = [make_batch(seed=seed) for seed in range(4)]
    (scores,) = run_scores(["fisher"], bert, batches, task=task).scores
    even, odd = (score_by_target("fisher", bert, half, task=task) for half in (batches[::2], batches[1::2]))
    expected = stats.spearmanr(list(even.values()), list(odd.values())).statistic
    assert scores.split_half == pytest.approx(expected)


def test_a_pass_ends_where_halves_agree(bert, task, make_batch):
    taken = []
    batches = (taken.append(1) or make_batch(16, seed=0) for _ in range(40))  # halves that agree at once
    seen = run_scores(["fisher", "parameters"], bert, batches, task=task)
    assert [score.n_examples for score in seen.scores] == [64, 0]
    assert len(taken) == 4

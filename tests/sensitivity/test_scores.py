"""The contract of an importance score, and each score against brute force by autograd or numpy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from toys.bases import state_of
from toys.sensitivity import (
    SCORES,
    ModelLoss,
    Predicting,
    biases_of,
    examples_of,
    gradients_of,
    mean_of,
    mean_squares,
    measured_sites,
    run_scores,
    score_by_site,
    squares_of,
    values_by_site,
    weights_of,
)

from autopeft.evidence import rank_correlation
from autopeft.extension import Score, discover
from autopeft.sensitivity import MEASURED_KINDS
from autopeft.sensitivity.lora_fisher import RANK, initial_a
from autopeft.sensitivity.passes.labels import with_drawn_labels

by_score = pytest.mark.parametrize("name", SCORES)
# Filler words per text: with some tokens more, T is on either side of where `fisher` changes its way
# (2 T² against in × out, which is 16 × 16 to 32 × 16 here: T of 11 to 16).
by_length = pytest.mark.parametrize("n_filler", [(1, 5), (15, 25)], ids=["short", "long"])
PASSES = {"none", "weights", "inputs", "layers", "true", "sampled"}


@pytest.fixture
def run(base, task):
    """A function: a score's name and batches -> what it says of the base model."""

    def run(name, batches, *, seed=0):
        (scores,) = run_scores([name], base, batches, task=task, seed=seed).scores
        return scores

    return run


@pytest.fixture
def score(base, run):
    """A function: a score's name and batches -> its values by site."""
    return lambda name, batches, *, seed=0: values_by_site(base, run(name, batches, seed=seed))


def two_batches(make_batch, n_filler=(1, 9)):
    batches = [make_batch(4, seed=1, n_filler=n_filler), make_batch(2, seed=2, n_filler=n_filler)]
    assert any((batch["attention_mask"] == 0).any() for batch in batches)  # some rows are padded
    return batches


@by_score
def test_part_is_a_score_with_a_summary_of_its_own(name):
    assert isinstance(SCORES[name], Score)
    assert SCORES[name].name == name
    assert SCORES[name].summary
    assert SCORES[name].unit
    assert SCORES[name].needed_pass in PASSES


@by_score
def test_every_site_has_a_finite_value_that_is_not_negative(name, base, run, make_batch):
    scores = run(name, [make_batch(seed=1), make_batch(seed=2)])
    assert len(scores.values) == len(base.sites)
    assert all(math.isfinite(value) and value >= 0 for value in scores.values)
    for site, value in zip(base.sites, scores.values, strict=True):
        is_norm = site.kind == "norm"
        lacks = {
            "activation": is_norm,
            "conditioning": is_norm,
            "stable_rank": is_norm,
            "bias_fisher": not site.has_bias,
            "cka": site.layer is None,
        }.get(name, False)
        assert (value > 0) == (site.kind in MEASURED_KINDS and not lacks)


@by_score
def test_profiles_are_there_for_every_site_or_none_and_never_rise(name, base, run, make_batch):
    scores = run(name, [make_batch(seed=1), make_batch(seed=2)])
    assert len(scores.profiles) == (len(base.sites) if name in ("spectrum", "activation") else 0)
    for profile in scores.profiles:
        assert list(profile) == sorted(profile, reverse=True)
        assert all(energy >= 0 for energy in profile)


@by_score
def test_same_seed_gives_the_same_answer(name, run, make_batch):
    batches = [make_batch(seed=1), make_batch(seed=2)]
    assert run(name, batches, seed=4) == run(name, batches, seed=4)


@pytest.mark.parametrize("name", ["random", "fisher_sampled", "lora_fisher"])
def test_what_is_drawn_depends_on_the_seed(name, score, make_batch):
    batches = [make_batch()]
    assert score(name, batches, seed=4) != score(name, batches, seed=5)


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


@pytest.mark.parametrize("name", [name for name in SCORES if SCORES[name].needed_pass != "none"])
def test_two_reducers_add_up_to_one_that_saw_everything(name, score, make_batch):
    batches = [make_batch(seed=seed) for seed in range(4)]
    whole = score(name, batches)
    # With neighbours swapped, each half sees the other's batches, and the sum is the same.
    swapped = score(name, [batches[i] for i in (1, 0, 3, 2)] if name != "fisher_sampled" else batches)
    assert swapped == pytest.approx(whole, rel=1e-4)


@by_length
def test_fisher_is_the_mean_squared_gradient_of_single_examples(base, task, score, make_batch, n_filler):
    batches = two_batches(make_batch, n_filler)
    expected = mean_squares(weights_of(base), base, task, batches)
    assert score("fisher", batches) == pytest.approx(expected, rel=1e-4)


@by_length
def test_bias_fisher_is_the_mean_squared_bias_gradient_of_single_examples(
    base, task, score, make_batch, n_filler
):
    batches = two_batches(make_batch, n_filler)
    expected = mean_squares(biases_of(base), base, task, batches)
    without_bias = {site.name: 0.0 for site in measured_sites(base) if not site.has_bias}
    assert score("bias_fisher", batches) == pytest.approx(expected | without_bias, rel=1e-4)


@by_length
def test_sampled_fisher_is_that_of_single_examples_with_the_drawn_labels(base, task, make_batch, n_filler):
    batches = two_batches(make_batch, n_filler)
    seen = []

    class Recorder:
        """Keeps the batches that the pass asks the loss of."""

        peft_task_type = task.peft_task_type

        def loss(self, model, batch):
            seen.append(batch)
            return task.loss(model, batch)

    values = score_by_site("fisher_sampled", base, batches, task=Recorder(), seed=3)
    drawn = seen[1::2]  # each batch is first asked for its predictions
    assert values == pytest.approx(mean_squares(weights_of(base), base, task, drawn), rel=1e-4)


def test_drawn_labels_follow_the_models_predictions():
    logits = torch.tensor([[0.0, 1.0, 2.0]]).repeat(4000, 1)
    task = discover("autopeft.tasks")["text-classification"]
    batch = {"labels": torch.zeros(4000, dtype=torch.long)}
    drawn = with_drawn_labels(batch, Predicting(logits), task=task, seed=0, index=0)["labels"]
    shares = np.bincount(drawn.numpy(), minlength=3) / 4000
    np.testing.assert_allclose(shares, logits[0].softmax(0).numpy(), atol=0.03)


@by_length
def test_gradient_is_the_summed_weight_times_gradient_of_batches(base, task, score, make_batch, n_filler):
    batches, weights = two_batches(make_batch, n_filler), weights_of(base)
    expected = []
    for batch in batches:
        gradients = gradients_of(weights, lambda batch=batch: task.loss(base.module, batch))
        expected.append({n: float((weights[n][0] * g[0]).abs().sum()) for n, g in gradients.items()})
    assert score("gradient", batches) == pytest.approx(mean_of(expected, [4, 2]), rel=1e-4)


def test_gradient_norm_is_the_root_of_the_batches_squared_norms(base, task, score, make_batch):
    batches = two_batches(make_batch)
    weights = {name: of_site[:1] for name, of_site in weights_of(base).items()}
    first, second = (
        squares_of(weights, lambda batch=batch: len(batch["labels"]) * task.loss(base.module, batch))
        for batch in batches
    )
    expected = {name: math.sqrt((first[name] + second[name]) / 6) for name in first}
    assert score("gradient_norm", batches) == pytest.approx(expected, rel=1e-4)


@by_length
def test_lora_fisher_of_norms_is_their_fisher(base, task, score, make_batch, n_filler):
    batches = two_batches(make_batch, n_filler)
    norms = {site.name for site in measured_sites(base) if site.kind == "norm"}
    weights = {name: of_site for name, of_site in weights_of(base).items() if name in norms}
    values = {name: value for name, value in score("lora_fisher", batches).items() if name in norms}
    assert values == pytest.approx(mean_squares(weights, base, task, batches), rel=1e-4)


@by_length
def test_lora_fisher_is_that_of_b_in_an_attached_lora(base, task, score, make_batch, n_filler):
    batches = two_batches(make_batch, n_filler)
    values = score("lora_fisher", batches, seed=7)
    maps = {site.name: site for site in measured_sites(base) if site.kind != "norm"}
    is_conv1d = any(site.kind == "conv1d" for site in maps.values())
    config = LoraConfig(r=RANK, lora_alpha=RANK, target_modules=list(maps), fan_in_fan_out=is_conv1d)
    model = get_peft_model(base.module, config).eval()
    layers = {name: model.get_base_model().get_submodule(name) for name in maps}
    for name, layer in layers.items():
        layer.lora_A["default"].weight.data.copy_(initial_a(maps[name], seed=7))
    ups = {name: [layer.lora_B["default"].weight] for name, layer in layers.items()}
    expected = [
        squares_of(ups, lambda example=example: task.loss(model, example))
        for batch in batches
        for example in examples_of(batch)
    ]
    assert {name: values[name] for name in maps} == pytest.approx(mean_of(expected), rel=1e-4)


def test_a_is_drawn_as_peft_draws_it(bert):
    site = next(site for site in bert.sites if site.role == "down")
    drawn = torch.cat([initial_a(site, seed=seed) for seed in range(60)])
    torch.manual_seed(0)
    theirs = get_peft_model(bert.module, LoraConfig(r=480, target_modules=[site.name]))
    a = theirs.get_base_model().get_submodule(site.name).lora_A["default"].weight.detach()
    assert float(drawn.abs().max()) == pytest.approx(float(a.abs().max()), rel=1e-2)
    assert float(drawn.std()) == pytest.approx(float(a.std()), rel=2e-2)


def test_spectrum_holds_the_squared_singular_values_of_the_mean_gradient(base, task, run, make_batch):
    batches = two_batches(make_batch)
    scores = run("spectrum", batches)
    first, second = (
        gradients_of(weights_of(base), lambda batch=batch: task.loss(base.module, batch)) for batch in batches
    )
    for site, value, profile in zip(base.sites, scores.values, scores.profiles, strict=True):
        if site.kind in MEASURED_KINDS:
            pairs = zip(first[site.name], second[site.name], strict=True)
            mean = [(4 * a + 2 * b).double().numpy() / 6 for a, b in pairs]
            matrix = np.concatenate(mean)[None] if site.kind == "norm" else mean[0]
            energies = np.linalg.svd(matrix, compute_uv=False) ** 2
            assert profile == pytest.approx(energies[: len(profile)], rel=1e-3, abs=1e-6 * energies[0])
            assert len(profile) == min(16, len(energies))
            assert value == pytest.approx(energies.sum(), rel=1e-3)


def test_activation_holds_the_explained_shares_of_the_inputs(base, run, make_batch):
    batches = two_batches(make_batch)
    scores = run("activation", batches)
    for site, value, profile in zip(base.sites, scores.values, scores.profiles, strict=True):
        if site.kind in ("linear", "conv1d"):
            inputs = inputs_of(base.module, site.name, batches)
            energies = np.linalg.svd(inputs, compute_uv=False) ** 2
            shares = np.pad(energies / energies.sum(), (0, 16))  # a pooler sees few rows
            assert profile == pytest.approx(shares[: len(profile)], abs=1e-5)
            assert value == pytest.approx(shares[:8].sum(), rel=1e-4)


def inputs_of(module, name, batches):
    """Every token's input of one map, padding left out, shape (N, in)."""
    rows = []
    for batch in batches:
        seen = []
        handle = module.get_submodule(name).register_forward_pre_hook(
            lambda _, a, seen=seen: seen.append(a[0])
        )
        with torch.no_grad():
            module(**{key: value for key, value in batch.items() if key != "labels"})
        handle.remove()
        (inputs,) = seen
        mask = batch["attention_mask"].bool()
        is_padded = inputs.shape[:2] == mask.shape
        rows.append(inputs[mask] if is_padded else inputs.reshape(-1, inputs.shape[-1]))
    return torch.cat(rows).double().numpy()


def test_parameters_are_counted(base, score):
    n_weights = {name: sum(p.numel() for p in of_site) for name, of_site in weights_of(base).items()}
    assert score("parameters", []) == n_weights


def test_both_ways_of_fisher_were_taken_by_those_lengths(make_batch):
    short, long = (make_batch(4, seed=1, n_filler=n)["input_ids"].shape[1] for n in ((1, 5), (15, 25)))
    assert 2 * short**2 < 16 * 16 < 32 * 16 < 2 * long**2


@pytest.mark.parametrize("architecture", ["bert", "llama-lm"])
def test_scores_of_a_base_in_bfloat16_order_the_sites_as_in_float32(architecture, make_base, batch_for):
    names = sorted(set(SCORES) - {"uniform"})
    exact, held = make_base(architecture), make_base(architecture, dtype="bfloat16")
    loss = ModelLoss("CAUSAL_LM" if architecture.endswith("-lm") else "SEQ_CLS")
    batches = [batch_for(exact)] * 2
    before = held.sha256(), state_of(held.module)
    scores, low = (run_scores(names, base, batches, task=loss).scores for base in (exact, held))
    for first, second in zip(scores, low, strict=True):
        if first.name == "bias_fisher" and architecture == "llama-lm":  # a Llama has no bias
            assert set(first.values) == set(second.values) == {0.0}
        else:
            assert rank_correlation(first.values, second.values) >= 0.98, first.name
    assert (held.sha256(), state_of(held.module)) == before

"""The contract of an importance score, and each score against brute force by autograd or numpy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from toys.bases import state_of

from autopeft.extension import Score, discover
from autopeft.sensitivity import MEASURED_KINDS, measure
from autopeft.sensitivity.lora_fisher import RANK, initial_a

SCORES = discover("autopeft.sensitivity")
by_score = pytest.mark.parametrize("name", SCORES)
# Filler words per text: with some tokens more, T is on either side of where `fisher` changes its way
# (2 T² against in × out, which is 16 × 16 to 32 × 16 here: T of 11 to 16).
by_length = pytest.mark.parametrize("n_filler", [(1, 5), (15, 25)], ids=["short", "long"])
LABELS = {"none", "inputs", "true", "sampled"}


def measured(base):
    """The sites that scores look at: those with a weight of their own."""
    return [site for site in base.sites if site.kind in MEASURED_KINDS]


@pytest.fixture
def found(base, task):
    """A function: a score's name and batches -> what it says of the base model."""

    def found(name, batches, *, seed=0):
        return measure([SCORES[name]], base.module, batches, base.sites, task=task, seed=seed)

    return found


@pytest.fixture
def score(base, found):
    """The same -> its values by site."""

    def score(name, batches, *, seed=0):
        (own,) = found(name, batches, seed=seed).scores
        return {
            site.name: value
            for site, value in zip(base.sites, own.values, strict=True)
            if site.kind in MEASURED_KINDS
        }

    return score


def gradients(base, task, batch):
    """Per site the weight's gradient, and of a norm's the bias's too, by plain autograd of the mean loss."""
    parameters = {}
    for site in measured(base):
        module = base.module.get_submodule(site.name)
        has_bias = site.kind == "norm" and site.has_bias
        parameters[site.name] = [module.weight, module.bias] if has_bias else [module.weight]
    flat = [parameter for own in parameters.values() for parameter in own]
    for parameter in flat:
        parameter.requires_grad_(True)
    grads = iter(torch.autograd.grad(task.loss(base.module, batch), flat))
    for parameter in flat:
        parameter.requires_grad_(False)
    return {name: [next(grads) for _ in own] for name, own in parameters.items()}


def squares(base, task, batch):
    found = gradients(base, task, batch)
    return {name: sum(float(g.square().sum()) for g in own) for name, own in found.items()}


def single_examples(batch):
    """Each row as a batch of its own, without its padding."""
    for row, n_tokens in enumerate(batch["attention_mask"].sum(dim=1).tolist()):
        features = {name: batch[name][row : row + 1, :n_tokens] for name in ("input_ids", "attention_mask")}
        yield {**features, "labels": batch["labels"][row : row + 1]}


def mean_over(dictionaries, weights=None):
    weights = weights or [1] * len(dictionaries)
    return {
        name: math.fsum(w * d[name] for w, d in zip(weights, dictionaries, strict=True)) / sum(weights)
        for name in dictionaries[0]
    }


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
    assert SCORES[name].labels in LABELS


@by_score
def test_every_site_has_a_finite_value_that_is_not_negative(name, base, found, make_batch):
    (own,) = found(name, [make_batch(seed=1), make_batch(seed=2)]).scores
    assert len(own.values) == len(base.sites)
    assert all(math.isfinite(value) and value >= 0 for value in own.values)
    for site, value in zip(base.sites, own.values, strict=True):
        lacks = {"activation": site.kind == "norm", "bias_fisher": not site.has_bias}.get(name, False)
        assert (value > 0) == (site.kind in MEASURED_KINDS and not lacks)


@by_score
def test_profiles_are_there_for_every_site_or_none_and_never_rise(name, base, found, make_batch):
    (own,) = found(name, [make_batch(seed=1), make_batch(seed=2)]).scores
    assert len(own.profiles) == (len(base.sites) if name in ("spectrum", "activation") else 0)
    for profile in own.profiles:
        assert list(profile) == sorted(profile, reverse=True)
        assert all(energy >= 0 for energy in profile)


@by_score
def test_same_seed_gives_the_same_answer(name, found, make_batch):
    batches = [make_batch(seed=1), make_batch(seed=2)]
    assert found(name, batches, seed=4).scores == found(name, batches, seed=4).scores


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
    first, second = (
        measure([SCORES[name]], base.module, batches, base.sites, task=task, seed=0).scores for _ in range(2)
    )
    assert first == second


@pytest.mark.parametrize("name", [name for name in SCORES if SCORES[name].labels != "none"])
def test_two_reducers_add_up_to_one_that_saw_everything(name, base, task, score, make_batch):
    batches = [make_batch(seed=seed) for seed in range(4)]
    whole = score(name, batches)
    # In two batches of half the order the halves swap what they see, and the sum is the same.
    swapped = score(name, [batches[i] for i in (1, 0, 3, 2)] if name != "fisher_sampled" else batches)
    assert swapped == pytest.approx(whole, rel=1e-4)


@by_length
def test_fisher_is_the_mean_squared_gradient_of_single_examples(base, task, score, make_batch, n_filler):
    batches = two_batches(make_batch, n_filler)
    singles = [single for batch in batches for single in single_examples(batch)]
    expected = mean_over([squares(base, task, single) for single in singles])
    assert score("fisher", batches) == pytest.approx(expected, rel=1e-4)


@by_length
def test_bias_fisher_is_the_mean_squared_bias_gradient_of_single_examples(
    base, task, score, make_batch, n_filler
):
    batches = two_batches(make_batch, n_filler)
    owners = {site.name: base.module.get_submodule(site.name) for site in measured(base) if site.has_bias}
    biases = [module.bias for module in owners.values()]
    for bias in biases:
        bias.requires_grad_(True)
    squared = [
        [float(g.square().sum()) for g in torch.autograd.grad(task.loss(base.module, single), biases)]
        for batch in batches
        for single in single_examples(batch)
        if biases
    ]
    for bias in biases:
        bias.requires_grad_(False)
    expected = {
        name: math.fsum(own) / 6 for name, own in zip(owners, zip(*squared, strict=True), strict=True)
    }
    found = score("bias_fisher", batches)
    assert {name: found[name] for name in owners} == pytest.approx(expected, rel=1e-4)
    assert not any(value for name, value in found.items() if name not in owners)


@by_length
def test_sampled_fisher_is_that_of_single_examples_with_the_drawn_labels(
    base, task, score, make_batch, n_filler
):
    batches = two_batches(make_batch, n_filler)
    losses = []

    class Listening:  # sees which labels the pass asks the loss of
        peft_task_type = task.peft_task_type

        def loss(self, model, batch):
            losses.append(batch)
            return task.loss(model, batch)

    (own,) = measure(
        [SCORES["fisher_sampled"]], base.module, batches, base.sites, task=Listening(), seed=3
    ).scores
    drawn = losses[1::2]  # each batch is first asked for its predictions
    singles = [single for batch in drawn for single in single_examples(batch)]
    expected = mean_over([squares(base, task, single) for single in singles])
    values = dict(zip((site.name for site in base.sites), own.values, strict=True))
    assert {name: values[name] for name in expected} == pytest.approx(expected, rel=1e-4)


def test_drawn_labels_follow_the_models_predictions():
    from autopeft.sensitivity.passes.labels import with_drawn_labels

    logits = torch.tensor([[0.0, 1.0, 2.0]]).repeat(4000, 1)
    task = discover("autopeft.tasks")["text-classification"]
    batch = {"labels": torch.zeros(4000, dtype=torch.long)}
    drawn = with_drawn_labels(batch, logits, task=task, seed=0, index=0)["labels"]
    shares = np.bincount(drawn.numpy(), minlength=3) / 4000
    np.testing.assert_allclose(shares, logits[0].softmax(0).numpy(), atol=0.03)


@by_length
def test_gradient_is_the_summed_weight_times_gradient_of_batches(base, task, score, make_batch, n_filler):
    batches = two_batches(make_batch, n_filler)
    expected = []
    for batch in batches:
        weights = {s.name: base.module.get_submodule(s.name).weight.detach() for s in measured(base)}
        own = gradients(base, task, batch)
        expected.append({name: float((weights[name] * g[0]).abs().sum()) for name, g in own.items()})
    assert score("gradient", batches) == pytest.approx(mean_over(expected, [4, 2]), rel=1e-4)


def test_gradient_norm_is_the_root_of_the_batches_squared_norms(base, task, score, make_batch):
    batches = two_batches(make_batch)
    summed = [{name: len(b["labels"]) ** 2 * float(g[0].square().sum()) for name, g in
               gradients(base, task, b).items()} for b in batches]  # fmt: skip
    expected = {name: math.sqrt((summed[0][name] + summed[1][name]) / 6) for name in summed[0]}
    assert score("gradient_norm", batches) == pytest.approx(expected, rel=1e-4)


@by_length
def test_lora_fisher_is_that_of_b_in_an_attached_lora(base, task, score, make_batch, n_filler):
    batches = two_batches(make_batch, n_filler)
    found = score("lora_fisher", batches, seed=7)
    sites = {site.name: site for site in measured(base)}
    maps = [name for name, site in sites.items() if site.kind != "norm"]
    norms = {name: value for name, value in found.items() if sites[name].kind == "norm"}
    singles = [single for batch in batches for single in single_examples(batch)]
    assert norms == pytest.approx(
        {name: value for name, value in mean_over([squares(base, task, s) for s in singles]).items()
         if name in norms}, rel=1e-4)  # fmt: skip
    is_conv1d = any(site.kind == "conv1d" for site in sites.values())
    config = LoraConfig(r=RANK, lora_alpha=RANK, target_modules=maps, fan_in_fan_out=is_conv1d)
    model = get_peft_model(base.module, config).eval()
    layers = {name: model.get_base_model().get_submodule(name) for name in maps}
    for name, layer in layers.items():
        layer.lora_A["default"].weight.data.copy_(initial_a(sites[name], seed=7))
    ups = [layer.lora_B["default"].weight for layer in layers.values()]
    grads = [torch.autograd.grad(task.loss(model, single), ups) for single in singles]
    expected = [dict(zip(maps, (float(g.square().sum()) for g in own), strict=True)) for own in grads]
    assert {name: found[name] for name in maps} == pytest.approx(mean_over(expected), rel=1e-4)


def test_a_is_drawn_as_peft_draws_it(bert):
    site = next(site for site in bert.sites if site.role == "down")
    drawn = torch.cat([initial_a(site, seed=seed) for seed in range(60)])
    torch.manual_seed(0)
    theirs = get_peft_model(bert.module, LoraConfig(r=480, target_modules=[site.name]))
    own = theirs.get_base_model().get_submodule(site.name).lora_A["default"].weight.detach()
    assert float(drawn.abs().max()) == pytest.approx(float(own.abs().max()), rel=1e-2)
    assert float(drawn.std()) == pytest.approx(float(own.std()), rel=2e-2)


def test_spectrum_holds_the_squared_singular_values_of_the_mean_gradient(base, task, found, make_batch):
    batches = two_batches(make_batch)
    (own,) = found("spectrum", batches).scores
    grads = [gradients(base, task, batch) for batch in batches]
    for site, value, profile in zip(base.sites, own.values, own.profiles, strict=True):
        if site.kind in MEASURED_KINDS:
            mean = [(4 * a + 2 * b).double().numpy() / 6 for a, b in zip(grads[0][site.name],
                    grads[1][site.name], strict=True)]  # fmt: skip
            matrix = np.concatenate(mean)[None] if site.kind == "norm" else mean[0]
            energies = np.linalg.svd(matrix, compute_uv=False) ** 2
            assert profile == pytest.approx(energies[: len(profile)], rel=1e-3, abs=1e-6 * energies[0])
            assert len(profile) == min(16, len(energies))
            assert value == pytest.approx(energies.sum(), rel=1e-3)


def test_activation_holds_the_explained_shares_of_the_inputs(base, found, make_batch):
    batches = two_batches(make_batch)
    (own,) = found("activation", batches).scores
    for site, value, profile in zip(base.sites, own.values, own.profiles, strict=True):
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
        (given,) = seen
        mask = batch["attention_mask"].bool()
        rows.append(given[mask] if given.shape[:2] == mask.shape else given.reshape(-1, given.shape[-1]))
    return torch.cat(rows).double().numpy()


def test_parameters_are_counted(base, score, make_batch):
    weights = {}
    for site in measured(base):
        module = base.module.get_submodule(site.name)
        weights[site.name] = module.weight.numel() + (module.bias.numel() if site.kind == "norm" and
                                                      site.has_bias else 0)  # fmt: skip
    assert score("parameters", []) == weights


def test_both_ways_of_fisher_were_taken_by_those_lengths(make_batch):
    short, long = (make_batch(4, seed=1, n_filler=n)["input_ids"].shape[1] for n in ((1, 5), (15, 25)))
    assert 2 * short**2 < 16 * 16 < 32 * 16 < 2 * long**2

"""Scores of the weights alone against numpy's singular values and against `peft`'s own ordering."""

from __future__ import annotations

import numpy as np
import peft
import pytest
import torch
from scipy import linalg
from toys.sensitivity import SCORES, ModelLoss, measured_sites, run_scores, values_by_site

from autopeft.errors import SpecError
from autopeft.sensitivity.parts.singular_values import extreme_values

NAMES = ["conditioning", "stable_rank"]


@pytest.fixture
def values(task):
    """A function: a base model -> the values of both scores by site, and the notes."""

    def values(base):
        seen = run_scores(NAMES, base, [], task=task)
        return *(values_by_site(base, scores) for scores in seen.scores), seen.notes

    return values


def maps_of(base):
    """Site name -> the weight of a linear map, in float64."""
    return {
        site.name: base.module.get_submodule(site.name).weight.detach().double().numpy()
        for site in measured_sites(base)
        if site.kind in ("linear", "conv1d")
    }


def set_weight(base, name, weight):
    with torch.no_grad():
        base.module.get_submodule(name).weight.copy_(torch.as_tensor(weight))


def test_values_are_those_of_numpys_singular_values_and_norms_have_none(base, values):
    kappa, stable_rank, notes = values(base)
    maps = maps_of(base)
    for name, weight in maps.items():
        assert kappa[name] == pytest.approx(1 / np.linalg.cond(weight), rel=1e-6)
        expected = np.linalg.norm(weight) ** 2 / linalg.svdvals(weight)[0] ** 2
        assert stable_rank[name] == pytest.approx(expected, rel=1e-6)
    norms = kappa.keys() - maps.keys()
    assert all(kappa[name] == stable_rank[name] == 0 for name in norms)
    assert notes == tuple(
        f"{name} does not measure {len(norms)} of the sites; they score 0." for name in NAMES
    )


def test_kappa_orders_modules_as_peft_does(bert, values):
    kappa, _, _ = values(bert)
    selector = peft.helpers.KappaTuneSelector(bert.module, show_progress=False)
    theirs = [name for name in selector.get_best_targets() if name in kappa]
    assert len(theirs) == len(maps_of(bert))
    assert theirs == sorted(theirs, key=kappa.__getitem__, reverse=True)


def test_kappa_of_experts_in_one_parameter_is_that_of_pefts_mean(make_base, values):
    base = make_base("moe-lm")
    kappa, stable_rank, _ = values(base)
    selector = peft.helpers.KappaTuneSelector(base.module, show_progress=False)
    selector.get_best_target_parameters()
    theirs = selector._parameter_condition_numbers
    experts = [site.name for site in base.sites if site.kind == "parameter"]
    assert experts
    for name in experts:
        assert kappa[name] == pytest.approx(1 / theirs[name], rel=1e-3)
        weights = base.module.get_parameter(name).detach().double().numpy()
        ranks = [np.linalg.norm(w) ** 2 / linalg.svdvals(w)[0] ** 2 for w in weights]
        assert stable_rank[name] == pytest.approx(np.mean(ranks), rel=1e-6)


@pytest.mark.parametrize(
    ("weight", "expected"),
    [
        (np.zeros((16, 16)), (0.0, 0.0)),
        (3 * np.eye(16), (1.0, 16.0)),
        (np.ones((16, 16)), (0.0, 1.0)),
        (np.diag([2.0] * 15 + [0.0]), (0.0, 15.0)),
        (np.diag([1.0] * 15 + [1e-4]), (1e-4, 15.0)),
        (np.diag([1e-30] * 16), (1.0, 16.0)),
    ],
    ids=["zero", "orthogonal", "rank 1", "singular", "ill-conditioned", "tiny"],
)
def test_values_are_finite_whatever_the_rank(bert, values, weight, expected):
    name = "bert.encoder.layer.1.attention.self.query"
    set_weight(bert, name, weight)
    kappa, stable_rank, _ = values(bert)
    assert (kappa[name], stable_rank[name]) == pytest.approx(expected, rel=1e-5, abs=1e-12)


@pytest.mark.parametrize("shape", [(40, 2500), (2500, 40), (64, 64)])
def test_blocks_of_columns_add_up_to_numpys_singular_values(shape):
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    largest, smallest, squared_norm = extreme_values(weight)
    expected = linalg.svdvals(weight.double().numpy())
    assert float(largest) == pytest.approx(expected[0], rel=1e-9)
    assert float(smallest) == pytest.approx(expected[-1], rel=1e-7)
    assert float(squared_norm) == pytest.approx((expected**2).sum(), rel=1e-9)


def test_weights_in_bfloat16_are_decomposed_in_float64(make_base, values):
    base = make_base("llama-lm", dtype="bfloat16")
    kappa, _, _ = values(base)
    weights = {
        name: base.module.get_submodule(name).weight.detach().double().numpy()
        for name in kappa
        if not name.endswith("norm")
    }
    assert weights
    for name, weight in weights.items():
        assert kappa[name] == pytest.approx(1 / np.linalg.cond(weight), rel=1e-6)


def test_a_weight_changed_in_place_is_decomposed_again(bert, values):
    name = "bert.encoder.layer.0.output.dense"
    before = values(bert)[1][name]
    set_weight(bert, name, np.eye(16, 32))
    assert before != pytest.approx(16.0)
    assert values(bert)[1][name] == pytest.approx(16.0)


def test_no_example_is_read_and_one_decomposition_serves_both_scores(bert, task):
    class NoLoss:
        peft_task_type = task.peft_task_type

    seen = run_scores(NAMES, bert, iter(()), task=NoLoss())
    assert seen.n_examples == 0
    assert [scores.split_half for scores in seen.scores] == [None, None]
    weight = torch.eye(4)
    first = extreme_values(weight)
    assert extreme_values(weight) is first


def test_weight_that_is_not_finite_is_named(bert, task):
    name = "bert.encoder.layer.1.intermediate.dense"
    set_weight(bert, name, np.full((32, 16), np.nan))
    with pytest.raises(SpecError, match=rf"score conditioning is nan at {name}"):
        run_scores(["conditioning"], bert, [], task=task)


def test_weights_are_read_beside_a_pass_over_examples(bert, task, make_batch, values):
    kappa, _, _ = values(bert)
    seen = run_scores(["fisher", "conditioning"], bert, [make_batch(), make_batch()], task=task)
    assert values_by_site(bert, seen.scores[1]) == kappa
    assert [scores.n_examples for scores in seen.scores] == [12, 0]
    assert SCORES["conditioning"].needed_pass == "weights"
    assert run_scores(["conditioning"], bert, [], task=ModelLoss()).peak_bytes == 0

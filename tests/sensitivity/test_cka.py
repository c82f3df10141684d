"""CKA against closed forms, and a layer's value against the hidden states that the model itself returns."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import ortho_group
from toys import architectures as model_toys
from toys.sensitivity import ModelLoss, run_scores, score_by_site, values_by_site

from autopeft.sensitivity.cka import similarity


def rows(n, d, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def linear_cka(x, y):
    """Kornblith et al. 2019, equation 4 with linear kernels: HSIC of centred Gram matrices."""
    centre = np.eye(len(x)) - 1 / len(x)
    k, l = centre @ x @ x.T @ centre, centre @ y @ y.T @ centre  # noqa: E741
    return np.trace(k @ l) / np.sqrt(np.trace(k @ k) * np.trace(l @ l))


@pytest.mark.parametrize(("n", "d"), [(7, 12), (40, 5)], ids=["few examples", "few dimensions"])
def test_similarity_is_1_for_the_same_and_blind_to_rotation_scale_and_shift(n, d):
    x = rows(n, d)
    turned = torch.as_tensor(ortho_group(d, seed=0).rvs()) @ x.T.double()
    assert similarity(x, x) == pytest.approx(1.0)
    assert similarity(x, 3 * turned.T + 5) == pytest.approx(1.0)
    y = rows(n, 9, seed=1)
    assert similarity(x, y) == pytest.approx(linear_cka(x.double().numpy(), y.double().numpy()))
    assert similarity(x, y) == pytest.approx(similarity(turned.T, y))


@pytest.mark.parametrize(
    ("x", "y", "expected"),
    [
        ([[0, 0], [3, 4]], [[7], [1]], 1.0),  # two examples are one pair: always alike
        ([[1], [-1], [0]], [[1], [0], [-1]], 1 / 4),  # 1² / (2 × 2)
        ([[1], [-1], [0]], [[1], [1], [-2]], 0.0),  # orthogonal
        ([[1], [1], [1]], [[1], [2], [3]], 1.0),  # all alike: nothing can be said
        ([[2, 5]], [[1, 1]], 1.0),
    ],
)
def test_similarity_by_hand(x, y, expected):
    assert similarity(torch.tensor(x).float(), torch.tensor(y).float()) == pytest.approx(expected, abs=1e-12)


def hidden_states(base, batches):
    """The representation before each layer and after the last: the mean direction of an example's tokens."""
    states = []
    for batch in batches:
        features = {name: value for name, value in batch.items() if name != "labels"}
        with torch.no_grad():
            hidden = base.module(**features, output_hidden_states=True).hidden_states
        mask = batch["attention_mask"][..., None].double()
        directions = [torch.nn.functional.normalize(h.double(), dim=2) for h in hidden]
        states.append([(d * mask).sum(1) / mask.sum(1) for d in directions])
    return [torch.cat(layer).numpy() for layer in zip(*states, strict=True)]


# Of a Llama the last state that transformers returns is the one after the last norm.
@pytest.mark.parametrize(("architecture", "n_layers"), [("bert", 2), ("llama", 1), ("gpt2", 1)])
def test_every_site_of_a_layer_has_1_minus_cka_of_its_hidden_states(
    make_base, task, make_batch, architecture, n_layers
):
    base = make_base(architecture)
    batches = [make_batch(6, seed=1, n_filler=(1, 9)), make_batch(5, seed=2, n_filler=(1, 9))]
    assert any((batch["attention_mask"] == 0).any() for batch in batches)
    states = hidden_states(base, batches)
    values = score_by_site("cka", base, batches, task=task)
    for site in base.sites:
        if site.layer is not None and site.layer < n_layers:
            expected = 1 - linear_cka(states[site.layer], states[site.layer + 1])
            assert values[site.name] == pytest.approx(expected, rel=1e-3, abs=1e-6), site.name
        elif site.layer is None and site.name in values:
            assert values[site.name] == 0.0


def test_a_layer_that_changes_nothing_has_the_value_0(make_base, task, make_batch):
    base = make_base("llama")
    layer = base.module.model.layers[1]
    with torch.no_grad():
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()
    values = score_by_site("cka", base, [make_batch(), make_batch(seed=1)], task=task)
    by_layer = {site.layer: values[site.name] for site in base.sites if site.name in values}
    assert by_layer[1] == pytest.approx(0.0, abs=1e-12)
    assert by_layer[0] > 1e-3


def test_one_very_long_token_does_not_decide(make_base, task, make_batch):
    base = make_base("llama")
    batches = [make_batch(6, seed=seed, n_filler=(1, 9)) for seed in range(2)]
    first_word = batches[0]["input_ids"][0, 0]
    assert all((batch["input_ids"][:, 0] == first_word).all() for batch in batches)
    plain = score_by_site("cka", base, batches, task=task)
    with torch.no_grad():  # the norm before each map removes the length, the residual stream keeps it
        base.module.get_input_embeddings().weight[first_word] *= 1000
    scaled = score_by_site("cka", base, batches, task=task)
    site = next(site.name for site in base.sites if site.layer == 0)
    assert scaled[site] == pytest.approx(plain[site], rel=0.5)


def test_left_padding_and_parts_of_a_batch_do_not_count(make_base, task, make_batch):
    base = make_base("llama")
    right = make_batch(6, n_filler=(3, 9))
    left = {name: value.clone() for name, value in right.items()}
    for row, n in enumerate(right["attention_mask"].sum(dim=1).tolist()):
        for name in ("input_ids", "attention_mask"):
            left[name][row] = right[name][row].roll(right[name].shape[1] - n)
    expected = score_by_site("cka", base, [right], task=task)
    assert score_by_site("cka", base, [left], task=task) == pytest.approx(expected, rel=1e-3, abs=1e-9)
    n_tokens = right["input_ids"].shape[1]
    in_parts = score_by_site("cka", base, [right], task=task, max_tokens=2 * n_tokens)
    assert in_parts == pytest.approx(expected, rel=1e-3, abs=1e-9)


def test_experts_have_their_layers_value(make_base, batch_for):
    base = make_base("moe-lm")
    batch = batch_for(base)
    seen = run_scores(["cka"], base, [batch, batch], task=ModelLoss("CAUSAL_LM"))
    values = values_by_site(base, seen.scores[0])
    experts = [site for site in base.sites if site.kind == "parameter"]
    assert experts
    for expert in experts:
        others = {values[site.name] for site in base.sites if site.layer == expert.layer}
        assert others == {values[expert.name]}
        assert values[expert.name] > 0
    assert seen.unreachable == ()


@pytest.mark.parametrize(
    ("architecture", "kind"),
    [
        ("deberta-v2", "SEQ_CLS"),
        ("distilbert", "SEQ_CLS"),
        ("modernbert", "SEQ_CLS"),
        ("xlnet", "SEQ_CLS"),
        ("bart", "SEQ_2_SEQ_LM"),
        ("t5", "SEQ_2_SEQ_LM"),
        ("gpt_neox", "CAUSAL_LM"),
        ("qwen3_moe", "CAUSAL_LM"),
        ("mpt", "CAUSAL_LM"),
    ],
)
def test_every_layer_has_a_value_whatever_the_architecture(architecture, kind):
    base = model_toys.build(architecture, kind)
    batch = model_toys.make_inputs(kind)
    seen = run_scores(["cka"], base, [batch, batch], task=ModelLoss(kind))
    for site, value in zip(base.sites, seen.scores[0].values, strict=True):
        is_measured = site.layer is not None and site.kind != "model"
        assert (value > 0) == is_measured, site.name

"""Bottleneck adapters: counts, the forward by hand, other adapters around them, refusals."""

from __future__ import annotations

import copy
import pickle
from itertools import pairwise

import numpy as np
import pytest
import torch
import transformers
from peft import IA3Config, LoraConfig, PeftType, get_peft_model, inject_adapter_in_model
from torch import nn
from toys.bottleneck import (
    INNER,
    TOYS,
    WIDTH,
    adapted_sites,
    adapters_at,
    build,
    inject,
    n_hooks,
    output,
    pairs_of,
    small_mlp,
    stir,
    tuner_layers,
    with_terms_added,
)

from autopeft.errors import SiteError, SpecError, UnknownNameError
from autopeft.methods.bottleneck import PART
from autopeft.methods.parts.bottleneck_tuner import (
    ACTIVATIONS,
    BottleneckConfig,
    BottleneckLayer,
    BottleneckModel,
)
from autopeft.methods.parts.tuners import extend_peft_type, register
from autopeft.model import list_sites
from autopeft.records import Adapter, Site

every_toy = pytest.mark.parametrize("toy", TOYS)
# peft warns of a second config in a model; that this works is what is tested here.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Already found a `peft_config`:UserWarning"),
]


@every_toy
def test_counts_are_the_closed_form_and_what_is_attached(toy):
    model = build(toy)
    sites = adapted_sites(model)
    adapters = adapters_at(sites)
    by_hand = 0
    for site, adapter in zip(sites, adapters, strict=True):
        shape = sorted(model.get_submodule(site.name).weight.shape)
        assert WIDTH in shape  # o is square, the other maps lead from or to the hidden width
        by_hand += 2 * WIDTH * adapter.rank + adapter.rank + WIDTH
    assert {site.role for site in sites} >= {"o", "down"}
    assert {PART.options(site)["mode"] for site in sites} == {"serial", "parallel"}
    inject(model, *PART.configs(adapters))
    attached = sum(p.numel() for p in model.parameters() if p.requires_grad)
    costs = [
        PART.cost(site, adapter.rank, dict(adapter.options))
        for site, adapter in zip(sites, adapters, strict=True)
    ]
    assert attached == sum(costs) == by_hand


def test_peft_counts_the_same():
    model = build("bert")
    sites = adapted_sites(model, mode="serial")
    (config,) = PART.configs(adapters_at(sites, ranks=(5,)))
    n_trainable, _ = get_peft_model(model, config).get_nb_trainable_parameters()
    assert n_trainable == len(sites) * (2 * WIDTH * 5 + 5 + WIDTH)


@every_toy
def test_adapters_start_as_the_identity_to_the_last_bit(toy):
    model, inputs = build(toy), TOYS[toy][2]
    before = output(model, inputs)
    inject(model, *PART.configs(adapters_at(adapted_sites(model))))
    assert len(tuner_layers(model)) >= 3
    assert torch.equal(output(model, inputs), before)


@pytest.mark.parametrize("toy", ["bert", "gpt2"])
@pytest.mark.parametrize("activation", ["relu", "gelu", "swish"])
def test_serial_adapter_adds_an_mlp_of_its_maps_output_to_that_output(toy, activation):
    model = build(toy)
    (config,) = PART.configs(adapters_at(adapted_sites(model, mode="serial"), activation=activation))
    stir(inject(model, config))
    layers = [module for module in model.modules() if isinstance(module, BottleneckLayer)]
    seen = {}
    for layer in layers:
        layer.base_layer.register_forward_hook(lambda m, i, y: seen.update({m: y}))
        layer.register_forward_hook(lambda m, i, y: seen.update({m: y}))
    output(model)
    for layer in layers:
        y = seen[layer.base_layer]
        by_hand = y.double().numpy() + small_mlp(layer, "bottleneck_0", y, activation=activation)
        np.testing.assert_allclose(seen[layer].numpy(), by_hand, rtol=1e-5, atol=1e-5)
        assert layer.scaling == {"bottleneck_0": 1.0}  # whatever the adapter's scale


@every_toy
def test_parallel_adapter_adds_an_mlp_of_the_sub_layers_input_to_its_output(toy):
    model, inputs = build(toy), TOYS[toy][2]
    pairs = pairs_of(toy, model)
    (config,) = PART.configs(adapters_at(adapted_sites(model, mode="parallel"), scale=0.25))
    stir(inject(model, config))
    assert config.outputs == dict(pairs)
    layers = [model.get_submodule(first) for first, _ in pairs]
    by_hand = with_terms_added(build(toy), layers, pairs, 0.25)
    assert not torch.allclose(output(model, inputs), output(build(toy), inputs), atol=0.1)
    torch.testing.assert_close(output(model, inputs), output(by_hand, inputs), rtol=1e-4, atol=1e-4)
    assert n_hooks(model) == 0


OTHERS = {
    "lora": lambda last: LoraConfig(r=2, target_modules=last, init_lora_weights=False),
    "dora": lambda last: LoraConfig(r=2, target_modules=last, init_lora_weights=False, use_dora=True),
    "ia3": lambda last: IA3Config(target_modules=last, feedforward_modules=[]),
    "serial": lambda last: BottleneckConfig(r=2, target_modules=last),
}


@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.parametrize("parallel_first", [True, False])
def test_another_adapter_on_the_last_map_never_sees_the_term(other, parallel_first):
    model, alone = build("bert"), build("bert")
    pairs = pairs_of("bert", model)
    last = r".*layer\.\d+\.output\.dense"
    parallel = BottleneckConfig(mode="parallel", r=3, scale=2.0, target_modules=r".*intermediate\.dense")
    configs = [parallel, OTHERS[other](last)]
    stir(inject(model, *(configs if parallel_first else reversed(configs))))
    stir(inject(alone, OTHERS[other](last)))
    layers = [model.get_submodule(first) for first, _ in pairs]
    assert parallel.outputs == dict(pairs)
    by_hand = with_terms_added(alone, layers, pairs, 2.0)
    torch.testing.assert_close(output(model), output(by_hand), rtol=1e-4, atol=1e-4)


def test_another_adapter_may_wrap_the_first_map_too():
    model = build("bert")
    parallel = BottleneckConfig(mode="parallel", r=3, target_modules=r".*intermediate\.dense")
    lora = LoraConfig(r=2, target_modules=r".*intermediate\.dense", init_lora_weights=False)
    orders = ([parallel, lora], [lora, parallel])
    first, second = (output(stir(inject(build("bert"), *order))) for order in orders)
    torch.testing.assert_close(first, second)
    assert not torch.allclose(first, output(model), atol=0.1)


def test_two_adapters_of_one_site_are_both_used_where_both_are_active():
    model = build("bert")
    config = BottleneckConfig(r=2, target_modules=r".*layer\.1\.output\.dense")
    stir(inject(model, config, copy.deepcopy(config)))
    (layer,) = [module for module in model.modules() if isinstance(module, BottleneckLayer)]
    x = torch.randn(4, INNER, generator=torch.Generator().manual_seed(0))
    y = layer.base_layer(x)
    by_hand = y.detach().numpy() + sum(small_mlp(layer, name, y) for name in layer.r)
    np.testing.assert_allclose(layer(x).detach().numpy(), by_hand, rtol=1e-5, atol=1e-5)


def test_each_site_gets_its_own_hidden_size_and_scale():
    model = build("llama")
    sites = adapted_sites(model)
    adapters = [
        Adapter(
            method="bottleneck",
            site=site.name,
            rank=1 + i,
            scale=0.5 + i,
            options=tuple(PART.options(site).items()),
        )
        for i, site in enumerate(sites)
    ]
    inject(model, *PART.configs(adapters))
    for adapter, site in zip(adapters, sites, strict=True):
        layer = model.get_submodule(adapter.site)
        assert list(layer.r.values()) == [adapter.rank]
        assert list(layer.scaling.values()) == [adapter.scale if site.role == "up" else 1.0]


class Layer(nn.Module):
    def __init__(self, **maps):
        super().__init__()
        for name, (n_in, n_out) in maps.items():
            self.add_module(name, nn.Linear(n_in, n_out))


def stack(**maps):
    """One layer of the given maps, under a name as transformers have it."""
    torch.manual_seed(0)
    model = nn.Module()
    model.model = nn.Module()
    model.model.layers = nn.ModuleList([Layer(**maps)])
    return model


@pytest.mark.parametrize(
    ("maps", "settings", "message"),
    [
        ({"up_proj": (4, 8)}, {}, r"layers.0.up_proj, whose layer has no last map \(role down\)"),
        ({"up_proj": (4, 8), "fc2": (8, 4), "w2": (8, 4)}, {}, "whose layer has the last maps .*fc2, .*w2;"),
        ({"up_proj": (4, 8), "fc2": (8, 6)}, {}, "its 4 inputs as width, but .*fc2 gives 6 numbers"),
        ({"up_proj": (4, 8), "fc2": (8, 4)}, {"target_modules": r".*fc2"}, "fc2, a map of role 'down'"),
        (
            {"up_proj": (4, 8), "fc2": (8, 4)},
            {"outputs": {"model.layers.0.up_proj": "model.layers.0.fc3"}},
            r"is to go to model.layers.0.fc3, and the model has no linear map of that name",
        ),
    ],
)
def test_parallel_adapter_without_its_last_map_is_refused_before_anything_changes(maps, settings, message):
    model = stack(**maps)
    config = BottleneckConfig(**{"mode": "parallel", "r": 2, "target_modules": r".*up_proj", **settings})
    with pytest.raises(SiteError, match=message):
        inject_adapter_in_model(config, model)
    assert tuner_layers(model) == []


@pytest.mark.parametrize(
    ("maps", "fits"),
    [
        ({"up_proj": (4, 8), "fc2": (8, 4)}, True),
        ({"up_proj": (4, 8)}, False),
        ({"up_proj": (4, 8), "fc2": (8, 4), "w2": (8, 4)}, False),
        ({"up_proj": (4, 8), "fc2": (8, 6)}, False),
        ({"gate_up_proj": (4, 16), "down_proj": (8, 4)}, True),
    ],
)
def test_first_map_is_refused_where_the_layer_has_no_one_last_map_of_its_width(maps, fits):
    first, *others = list_sites(stack(**maps))
    assert (PART.refusal(first) is None) is fits
    assert fits or "no one map in this layer fits" in PART.refusal(first)
    assert all(PART.refusal(other) is None for other in others)


STATE_SPACE = {"hidden_size": WIDTH, "num_hidden_layers": 2, "vocab_size": 50}
LINEAR = {"linear_num_value_heads": 4, "linear_num_key_heads": 2}
LINEAR |= {"linear_key_head_dim": 4, "linear_value_head_dim": 4}
# Config, and the ends of the names of the maps that begin a feed-forward.
ODD = {
    "mamba": (transformers.MambaConfig(**STATE_SPACE, state_size=4), set()),
    "qwen3_5": (
        transformers.Qwen3_5TextConfig(
            **STATE_SPACE, **LINEAR, intermediate_size=INNER, num_attention_heads=4, num_key_value_heads=2
        ),
        {"mlp.up_proj"},
    ),
    "convbert": (
        transformers.ConvBertConfig(
            **STATE_SPACE, embedding_size=WIDTH, intermediate_size=INNER, num_attention_heads=4
        ),
        {"intermediate.dense"},
    ),
}


@pytest.mark.parametrize("architecture", ODD)
def test_maps_that_widen_outside_of_a_feed_forward_get_no_parallel_adapter(architecture):
    """All sites that the method does not refuse are attached at once, at the count that it tells."""
    config, begins = ODD[architecture]
    model = transformers.AutoModel.from_config(config)
    sites = adapted_sites(model)
    ends = {".".join(site.name.split(".")[-2:]) for site in sites if PART.options(site)["mode"] == "parallel"}
    assert ends == begins
    if sites:
        adapters = adapters_at(sites)
        inject(model, *PART.configs(adapters))
        pairs = zip(sites, adapters, strict=True)
        costs = [PART.cost(site, adapter.rank, dict(adapter.options)) for site, adapter in pairs]
        assert sum(p.numel() for p in model.parameters() if p.requires_grad) == sum(costs)


def test_last_map_may_be_named_by_hand():
    model = stack(up_proj=(4, 8), fc2=(8, 4), w2=(8, 4))
    outputs = {"model.layers.0.up_proj": "model.layers.0.w2"}
    config = BottleneckConfig(mode="parallel", r=2, target_modules=r".*up_proj", outputs=outputs)
    layer = stir(inject(model, config)).model.layers[0]
    x = torch.ones(1, 4)
    plain = layer.w2(layer.up_proj.base_layer(x)).detach().numpy()
    by_hand = plain + small_mlp(layer.up_proj, "bottleneck_0", x)
    np.testing.assert_allclose(layer.w2(layer.up_proj(x)).detach().numpy(), by_hand, rtol=1e-5)


def test_modules_that_are_no_linear_map_are_refused():
    with pytest.raises(SiteError, match=r"put at a LayerNorm; it takes nn\.Linear and Conv1D"):
        inject(build("bert"), BottleneckConfig(target_modules=r".*LayerNorm"))


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        (
            {"mode": "sideways"},
            UnknownNameError,
            "no bottleneck mode named 'sideways'; known: parallel, serial",
        ),
        ({"activation": "rely"}, UnknownNameError, "Did you mean 'relu'"),
        ({"bias": "lora_only"}, UnknownNameError, "known: all, bottleneck_only, none"),
        ({"r": 0}, SpecError, "hidden size of a bottleneck adapter is 0; give it at least 1"),
        ({"rank_pattern": {"q": -1}}, SpecError, "is -1"),
    ],
)
def test_config_that_says_nothing_sensible_is_refused(settings, error, message):
    with pytest.raises(error, match=message):
        BottleneckConfig(target_modules=["dense"], **settings)


def test_enum_of_peft_is_extended_once_and_configs_travel_between_processes():
    before = list(PeftType)
    assert PeftType.BOTTLENECK is PeftType("BOTTLENECK")
    assert extend_peft_type("BOTTLENECK") is PeftType.BOTTLENECK
    register("bottleneck", BottleneckConfig, BottleneckModel)
    assert list(PeftType) == before
    config = BottleneckConfig(target_modules=["dense"], r=3)
    assert pickle.loads(pickle.dumps(config)) == config
    assert config.peft_type is PeftType.BOTTLENECK


def site(role, kind="linear", *, layer=0):
    return Site(name="x", layer=layer, role=role, kind=kind, in_features=8, out_features=12, has_bias=True)


@pytest.mark.parametrize(
    ("role", "mode", "width"),
    [("o", "serial", 12), ("down", "serial", 12), ("up", "parallel", 8), ("gate_up", "parallel", 8)],
)
def test_mode_and_cost_follow_from_the_site(role, mode, width):
    for kind in ("linear", "conv1d"):
        here = site(role, kind)
        assert PART.refusal(here) is None
        options = PART.options(here, mode="serial", activation="gelu")
        assert options == {"mode": mode, "activation": "gelu"}
        ranks = PART.ranks(here, options)
        assert list(ranks) == list(range(1, width + 1))
        costs = [PART.cost(here, rank, options) for rank in (0, *ranks)]
        assert costs[0] == 0
        assert costs[1] == 2 * width + 1 + width
        assert {after - before for before, after in pairwise(costs[1:])} == {2 * width + 1}


@pytest.mark.parametrize(
    ("site", "reason"),
    [
        (site("q"), "takes the roles o, down, up, gate_up"),
        (site("norm", "norm"), "takes linear maps, and this is a norm"),
        (site("up", "parameter"), "takes linear maps, and these are experts in one parameter"),
        (site("up", layer=None), "needs the last map of that, and this is in no layer"),
    ],
)
def test_sites_that_cannot_take_it_are_refused_with_a_reason(site, reason):
    assert reason in PART.refusal(site)


def test_unknown_activation_is_answered_with_the_known_ones():
    with pytest.raises(UnknownNameError, match="known: gelu, relu, swish"):
        PART.options(site("o"), activation="sine")
    assert set(PART.choices["activation"]) <= set(ACTIVATIONS)


def test_each_mode_and_activation_gets_its_own_config():
    sites = adapted_sites(build("bert"))
    adapters = adapters_at(sites[:3]) + adapters_at(sites[3:], activation="gelu")
    kinds = [(config.mode, config.activation) for config in PART.configs(adapters)]
    assert kinds == [("parallel", "gelu"), ("parallel", "relu"), ("serial", "gelu"), ("serial", "relu")]

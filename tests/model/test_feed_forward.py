"""The last maps of feed-forwards, against a comparison of every name with every other."""

from __future__ import annotations

import random
import sys
from typing import Any

import pytest
import torch
import transformers

from autopeft.model import last_maps, list_sites
from autopeft.model.feed_forward import with_last_maps
from autopeft.records import FIRST_ROLES, Site, layer_name

SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
SWITCH = {"d_model": 16, "d_ff": 32, "num_layers": 2, "num_decoder_layers": 2, "num_heads": 2, "d_kv": 8}
MODELS = {
    "switch": (transformers.SwitchTransformersForConditionalGeneration, {**SWITCH, "num_experts": 4}),
    "t5": (transformers.T5ForConditionalGeneration, {**SWITCH, "feed_forward_proj": "gated-gelu"}),
    "qwen2 with shared experts": (transformers.Qwen2MoeForCausalLM, {**SIZES, "num_experts": 4}),
    "llama": (transformers.LlamaForCausalLM, SIZES),
    "bert": (transformers.BertForSequenceClassification, SIZES),
    "vit": (transformers.ViTForImageClassification, {**SIZES, "image_size": 32}),
    "jamba": (transformers.JambaForCausalLM, {**SIZES, "num_experts": 2, "mamba_dt_rank": 2}),
    "gpt2": (transformers.GPT2LMHeadModel, {"n_embd": 16, "n_layer": 2, "n_head": 2}),
}


def map_of(name: str, role: str) -> Site:
    return Site(name=name, layer=0, role=role, kind="linear", in_features=8, out_features=8, has_bias=False)


def n_shared(name: str, other: str) -> int:
    count = 0
    for a, b in zip(name.split("."), other.split("."), strict=False):
        if a != b:
            break
        count += 1
    return count


def by_brute_force(site: Site, sites: list[Site]) -> list[Site]:
    layer = layer_name(site.name)
    ends = [
        other
        for other in sites
        if other.role == "down" and other.kind in ("linear", "conv1d") and layer_name(other.name) == layer
    ]
    shared = [n_shared(site.name, other.name) for other in ends]
    return [other for other, n in zip(ends, shared, strict=True) if n == max(shared)]


@pytest.mark.parametrize("name", MODELS)
def test_nearest_last_maps_are_those_of_most_shared_parts(name: str) -> None:
    kind, sizes = MODELS[name]
    with torch.device("meta"):
        module = kind(kind.config_class(**sizes))
    sites = list(list_sites(module))
    firsts = [site for site in sites if site.role in FIRST_ROLES and site.kind in ("linear", "conv1d")]
    for site in sites:
        assert last_maps(site, sites) == by_brute_force(site, sites)
    for site in firsts:
        nearest = by_brute_force(site, sites)
        is_whole = len(nearest) == 1 and nearest[0].out_features == site.in_features
        assert site.has_last_map == is_whole


def test_names_of_any_depth_inside_and_outside_of_layers() -> None:
    draw = random.Random(0)
    parts = ("a", "b", "experts", "0", "1")
    names = {".".join(draw.choices(parts, k=draw.randint(1, 6))) + ".map" for _ in range(200)}
    sites = [map_of(name, draw.choice(("up", "down", "q"))) for name in sorted(names)]
    assert [last_maps(site, sites) for site in sites] == [by_brute_force(site, sites) for site in sites]


def test_work_grows_with_the_experts_and_not_with_their_square() -> None:
    def n_calls(n_experts: int) -> int:
        maps = (("wi", "up"), ("wo", "down"))
        sites = [map_of(f"h.0.experts.{i}.{part}", role) for i in range(n_experts) for part, role in maps]
        count = 0

        def note(frame: Any, event: str, argument: Any) -> None:
            nonlocal count
            count += event in ("call", "c_call")

        sys.setprofile(note)
        try:
            with_last_maps(sites)
        finally:
            sys.setprofile(None)
        return count

    assert n_calls(80) < 2.5 * n_calls(40)

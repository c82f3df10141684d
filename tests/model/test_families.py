"""Tiny models of many families: every linear layer is listed with role and depth, counts are peft's."""

from __future__ import annotations

import re
from types import SimpleNamespace

import peft
import pytest
import torch
from peft import LoraConfig
from torch import nn
from toys.families import FAMILIES, D, build
from transformers.pytorch_utils import Conv1D

from autopeft.model import BaseModel
from autopeft.model.linear_layers import hidden_size
from autopeft.plugins import discover

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning:peft")
ROLES = {"q", "k", "v", "qkv", "pos_q", "pos_k", "o", "gate", "up", "gate_up", "down"}
# Names of the modules that are trained as the head.
HEADS = {"classifier", "score", "pre_classifier", "pooler", "head"}


@pytest.fixture(scope="module")
def bases():
    """A toy of each family by name, without weights."""
    with torch.device("meta"):
        made = {family: build(family) for family in FAMILIES}
    return {n: BaseModel(toy, None, name=f"tiny {n}", untrained=frozenset()) for n, toy in made.items()}


def linear_layers(base):
    """Every linear layer but those of the head, the output layer and torch's MultiheadAttention."""
    output = getattr(base.module, "get_output_embeddings", lambda: None)()
    inner = {
        f"{name}.out_proj"
        for name, child in base.module.named_modules()
        if isinstance(child, nn.MultiheadAttention)
    }
    return {
        name: child
        for name, child in base.module.named_modules()
        if isinstance(child, nn.Linear | Conv1D)
        and child is not output
        and name.split(".")[0] not in base.head_names
        and name not in inner
    }


def test_every_linear_layer_is_a_target_of_its_shape(bases):
    for family, base in bases.items():
        layers = linear_layers(base)
        shapes = {
            name: tuple(child.weight.shape if isinstance(child, Conv1D) else child.weight.shape[::-1])
            for name, child in layers.items()
        }
        targets = [target for target in base.targets if target.kind in ("linear", "conv1d")]
        assert {target.name: (target.in_features, target.out_features) for target in targets} == shapes, (
            family
        )


def test_linear_layers_have_a_role_and_the_depth_in_their_name(bases):
    for base in bases.values():
        for target in base.targets:
            number = re.search(r"\.(\d+)\.", target.name)
            if target.kind not in ("linear", "conv1d", "parameter") or number is None:
                continue
            is_between_stages = target.name.endswith("downsample.reduction")  # of Swin
            assert (target.role in ROLES) is not is_between_stages, (base.name, target)
            is_decoder = base.module.config.is_encoder_decoder and "decoder" in target.name.split(".")
            assert target.layer == int(number[1]) + (2 if is_decoder else 0), (base.name, target)


@pytest.mark.parametrize(
    ("family", "queries", "keys"),
    [("deberta", "pos_q_proj", "pos_proj"), ("deberta-v2", "pos_query_proj", "pos_key_proj")],
)
def test_layers_of_relative_positions_are_not_queries_or_keys_of_the_text(bases, family, queries, keys):
    base = bases[family]
    roles = {target.name.rpartition(".")[2]: target.role for target in base.targets}
    assert (roles[queries], roles[keys]) == ("pos_q", "pos_k")
    assert discover("autopeft.methods")["bitfit"].refusal(
        next(target for target in base.targets if target.name.endswith(keys))
    )


def test_heads_are_separated_from_the_base_model_and_its_width_is_known(bases):
    for family, base in bases.items():
        assert base.hidden_size == D, family  # of Swin the last stage: 8 doubled once
        is_generative = FAMILIES[family][2] in ("AutoModelForCausalLM", "AutoModelForSeq2SeqLM")
        names = {name.split(".")[0] for name in base.head_names}
        assert names == set() if is_generative else names and names <= HEADS, family
        total = sum({id(p): p.numel() for p in base.module.parameters()}.values())
        assert base.base_params + base.head_params == total, family


@pytest.mark.parametrize("family", FAMILIES)
def test_counts_are_those_of_peft(bases, family):
    targets = [target for target in bases[family].targets if target.kind in ("linear", "conv1d")]
    predicted = sum(discover("autopeft.methods")["lora"].cost(target, 1, {}) for target in targets)
    with torch.device("meta"):
        fresh = build(family)
        config = LoraConfig(r=1, target_modules=[target.name for target in targets], bias="none")
        model = peft.get_peft_model(fresh, config)
    attached = sum(p.numel() for name, p in model.named_parameters() if "lora_" in name)
    assert predicted == attached == sum(target.in_features + target.out_features for target in targets)


def test_of_two_towers_the_one_with_the_targets_counts():
    config = SimpleNamespace(
        sub_configs={"text_config": None, "vision_config": None},
        text_config=SimpleNamespace(hidden_size=32),
        vision_config=SimpleNamespace(hidden_size=24),
    )
    wide, narrow = SimpleNamespace(in_features=32), SimpleNamespace(in_features=24)
    assert hidden_size(config, [narrow, narrow, wide]) == 24
    assert hidden_size(config, [narrow, wide]) == 32

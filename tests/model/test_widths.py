"""The hidden size of a base model: by its config, by most of its target modules, or by their median."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from toys.families import FAMILIES, D, build

from autopeft.model import BaseModel
from autopeft.model.linear_layers import hidden_size
from autopeft.types import Target


def target(n, *, name="m"):
    return Target(
        name=name, layer=0, role="dense", kind="linear", in_features=n, out_features=8, has_bias=False
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_hidden_size_of_a_family_is_the_one_it_was_built_with(family):
    with torch.device("meta"):
        base = BaseModel(build(family), None, name=family, untrained=frozenset())
    assert base.hidden_size == D  # of Swin the last stage: 8 doubled once


def test_of_two_towers_the_one_with_the_targets_counts():
    config = SimpleNamespace(
        sub_configs={"text_config": None, "vision_config": None},
        text_config=SimpleNamespace(hidden_size=32),
        vision_config=SimpleNamespace(hidden_size=24),
    )
    assert hidden_size(config, [target(24), target(24), target(32)]) == 24
    assert hidden_size(config, [target(24), target(32)]) == 32

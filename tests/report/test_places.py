"""Modules in words, against plans made by hand."""

from __future__ import annotations

import pytest
from toys.space import linear

from autopeft.records import Adapter, Plan
from autopeft.report.words import places

ROLES = ("q", "k", "v", "o", "up", "down")
SITES = tuple(
    linear(f"h.{layer}.{role}", layer=layer, role=role, widths=(8, 8)) for layer in range(4) for role in ROLES
)
POOLER = linear("pooler", layer=None, role="dense", widths=(8, 8))


def plan_on(*names):
    adapters = tuple(Adapter(method="lora", site=name, rank=1, scale=1.0) for name in names)
    return Plan(adapters=adapters, learning_rate=1e-3, trainable_params=16 * len(names))


def names(layers, roles):
    return [f"h.{layer}.{role}" for layer in layers for role in roles]


@pytest.mark.parametrize(
    ("sites", "words"),
    [
        (names(range(4), "qv"), "8 modules: q and v in all 4 layers"),
        (names([0], ROLES), "6 modules: q, k, v, o, up and down in layer 0 of 4"),
        (names([2, 3], "q"), "2 modules: q in layers 2 to 3 of 4"),
        (names([0, 2], "q"), "2 modules: q in layers 0 and 2 of 4"),
        (["h.1.q"], "1 module: q in layer 1 of 4"),
        (["h.1.q", "h.2.v"], "2 modules: some of q and v in layers 1 to 2 of 4"),
        (
            [*names([3], "q"), "pooler"],
            "2 modules: q in layer 3 of 4 and 1 module outside the layers (dense)",
        ),
        (["pooler"], ""),
    ],
)
def test_modules_are_told_by_number_kind_and_layer(sites, words):
    assert places(plan_on(*sites), (*SITES, POOLER)) == words

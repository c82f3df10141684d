"""Plans in words, against plans made by hand."""

from __future__ import annotations

import pytest
from toys.results import HEAD, WORDS
from toys.space import linear

from autopeft.report import plan_words
from autopeft.report.plan_names import module_words
from autopeft.types import Adapter, Plan

ROLES = ("q", "k", "v", "o", "up", "down")
TARGETS = tuple(
    linear(f"h.{layer}.{role}", layer=layer, role=role, widths=(8, 8)) for layer in range(4) for role in ROLES
)
POOLER = linear("pooler", layer=None, role="dense", widths=(8, 8))


def names(layers, roles):
    return [f"h.{layer}.{role}" for layer in layers for role in roles]


@pytest.mark.parametrize(
    ("targets", "words"),
    [
        (names(range(4), "qv"), "q and v"),
        (names(range(4), ROLES), "all linear layers"),
        (names([0], ROLES), "all linear layers in the first of 4 layers"),
        (names([2, 3], "q"), "q in the last 2 of 4 layers"),
        (names([0, 2], "q"), "q in 2 of 4 layers"),
        (["h.1.q", "h.2.v"], "2 modules in 2 of 4 layers"),
        ([*names([3], "q"), "pooler"], "q in the last of 4 layers, plus pooler"),
        (["pooler"], "1 module"),
    ],
)
def test_modules_are_described_by_role_and_layer(targets, words):
    assert module_words(set(targets), (*TARGETS, POOLER)) == words


def test_a_plan_is_described_by_method_rank_and_modules():
    lora = [Adapter(method="lora", target=name, rank=2 + (name[2] == "3")) for name in names(range(4), "qv")]
    ia3 = [Adapter(method="ia3", target=name) for name in names(range(4), ("down",))]
    plan = Plan(adapters=(*lora, *ia3), learning_rate=1e-3, trainable_params=1)
    assert plan_words(plan, TARGETS, WORDS.labels) == "LoRA of rank 2–3 on q and v + IA³ on down"
    assert plan_words(plan, TARGETS, {}) == "lora of rank 2–3 on q and v + ia3 on down"
    assert plan_words(HEAD, TARGETS, {}, head="untrained model") == "untrained model"

"""Which target modules a policy selects, in models of several kinds, and the methods that fit a budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest
from toys.space import DEFAULT, METHODS, WIDTHS, context, linear, targets

from autopeft.space import (
    AllocationContext,
    Policy,
    cheapest,
    feasible,
    listed_policies,
    plan_of,
    select_targets,
)
from autopeft.types import Target


@pytest.mark.parametrize(
    ("share", "by", "layers"),
    [
        (1.0, "last_layers", {0, 1, 2, 3}),
        (0.5, "last_layers", {2, 3}),
        (0.25, "last_layers", {3}),
        (0.01, "last_layers", {3}),
        (0.5, "best_layers", {0, 2}),
        (0.25, "best_layers", {2}),
    ],
)
def test_a_share_keeps_the_layers_that_are_asked_for(share: float, by: str, layers: set[int]) -> None:
    by_layer = {0: 3.0, 1: 1.0, 2: 9.0, 3: 2.0, None: 0.0}
    allocation = context(scores={target.name: by_layer[target.layer] for target in targets()})
    policy = Policy(method="lora", placement="q+v", layer_share=share, select=by, learning_rate=1e-3)
    selected = select_targets(policy, allocation, METHODS["lora"])
    assert [target.name for target in selected] == [f"h.{i}.{role}" for i in sorted(layers) for role in "qv"]


@pytest.mark.parametrize(
    ("method", "placement", "roles"),
    [
        ("lora", "all", {*WIDTHS, "dense"}),
        ("lora", "attention", {"q", "k", "v", "o"}),
        ("bitfit", "mlp", {"up", "down"}),
        ("ia3", "attention+down", {"q", "k", "v", "o", "down"}),
        ("ln_tuning", "all", {"norm"}),
    ],
)
def test_a_placement_keeps_its_roles(method: str, placement: str, roles: set[str]) -> None:
    policy = Policy(method=method, placement=placement, learning_rate=1e-3)
    assert {target.role for target in select_targets(policy, context(), METHODS[method])} == roles


# Name of a layer -> role and widths in one layer; which of them "q and v" adapts, and what it is called.
FUSED = {
    "gpt2": ({"c_attn": ("qkv", (8, 24)), "c_fc": ("up", (8, 32))}, {"c_attn"}, "qkv"),
    "deberta": (
        {"in_proj": ("qkv", (8, 24)), "pos_proj": ("pos_k", (8, 8)), "pos_q_proj": ("pos_q", (8, 8))},
        {"in_proj"},
        "qkv",
    ),
    "deepseek_v3": (
        {
            "q_a_proj": ("q", (8, 4)),
            "q_b_proj": ("q", (4, 8)),
            "kv_a_proj_with_mqa": ("kv", (8, 4)),
            "kv_b_proj": ("kv", (4, 16)),
            "o_proj": ("o", (8, 8)),
        },
        {"q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj"},
        "q and kv",
    ),
    "mamba": ({"in_proj": ("dense", (8, 32)), "out_proj": ("o", (16, 8))}, set(), None),
    "rwkv": ({"key": ("k", (8, 8)), "value": ("v", (8, 8)), "output": ("o", (8, 8))}, {"value"}, "v"),
}


def of_layers(layers: Mapping[str, tuple[str, tuple[int, int]]], prefix: str = "h") -> list[Target]:
    return [
        linear(f"{prefix}.{layer}.{name}", layer=layer, role=role, widths=widths)
        for layer in range(2)
        for name, (role, widths) in layers.items()
    ]


def baselines_at(
    found: Sequence[Target], max_params: int = 500
) -> tuple[AllocationContext, dict[str, Policy]]:
    """The allocation, and label -> policy of the baselines of texts."""
    scores = {target.name: 1.0 for target in found}
    allocation = AllocationContext(
        targets=tuple(found), scores=scores, methods=METHODS, max_params=max_params
    )
    listed = listed_policies(DEFAULT, "classification", allocation)
    return allocation, {arm.label: policy for arm, policy in listed if arm.kind == "baseline"}


@pytest.mark.parametrize("architecture", FUSED)
def test_where_no_layer_is_v_alone_the_fused_layer_is_adapted_and_named(architecture: str) -> None:
    layers, adapted, label = FUSED[architecture]
    allocation, baselines = baselines_at(of_layers(layers))
    named = "" if label is None else f"LoRA on {label}"
    assert set(baselines) == {"LoRA on all linear layers", named} - {""}
    policy = Policy(method="lora", placement="q+v", learning_rate=1e-3)
    selected = {target.name for target in select_targets(policy, allocation, METHODS["lora"])}
    assert selected == {f"h.{layer}.{name}" for layer in range(2) for name in adapted}
    if named:
        assert {a.target for a in plan_of(baselines[named], allocation).adapters} == selected


def test_layers_of_two_kinds_count_each_by_itself() -> None:
    """A tower with fused layers next to one with separate ones, numbered alike."""
    split = {role: (role, (8, 8)) for role in ("q", "k", "v")}
    found = [*of_layers({"qkv": ("qkv", (8, 24))}, "tower"), *of_layers(split, "text")]
    assert set(baselines_at(found)[1]) == {"LoRA on all linear layers", "LoRA on q and v and qkv"}
    shared = of_layers({**split, "kv_b_proj": ("kv", (4, 16))})  # needed for neither q nor v
    allocation, _ = baselines_at(shared)
    policy = Policy(method="lora", placement="q+v", learning_rate=1e-3)
    assert {target.role for target in select_targets(policy, allocation, METHODS["lora"])} == {"q", "v"}


def test_the_cheapest_plan_of_each_method_is_its_cheapest_target() -> None:
    assert cheapest(DEFAULT, context()) == {
        **{"lora": 16, "ia3": 8, "road": 8, "hira": 16, "bitfit": 8, "ln_tuning": 16},
        "lora+ia3+norms": 16 + 8 + 16,
    }


@pytest.mark.parametrize(
    ("budget", "kept"),
    [
        (16, {"lora", "ia3", "road", "hira", "bitfit", "ln_tuning"}),
        (15, {"ia3", "road", "bitfit"}),
        (7, set()),
    ],
)
def test_methods_that_do_not_fit_the_budget_are_dropped(budget: int, kept: set[str]) -> None:
    assert set(feasible(DEFAULT, context(budget)).arms) == kept


def test_a_mix_is_dropped_where_one_part_of_it_fits_no_target() -> None:
    assert "lora+ia3+norms" in feasible(DEFAULT, context(40)).arms
    allocation = replace(context(40), targets=tuple(target for target in targets() if target.kind != "norm"))
    assert list(feasible(DEFAULT, allocation).mixes) == []

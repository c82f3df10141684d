"""A plan moves to another model or budget by role and relative depth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autopeft.errors import SpecError
from autopeft.extension import Method, discover
from autopeft.records import Adapter, Plan, Site
from autopeft.space import AllocationContext, Policy, plan_of, transfer

METHODS: Mapping[str, Method] = discover("autopeft.methods")
ROLES = {"q": (8, 8), "v": (8, 8), "up": (8, 16), "down": (16, 8)}


def site(name: str, layer: int | None, role: str, widths: tuple[int, int]) -> Site:
    kind = "norm" if role == "norm" else "linear"
    return Site(
        name=name,
        layer=layer,
        role=role,
        kind=kind,
        in_features=widths[0],
        out_features=widths[1],
        has_bias=True,
    )


def model(
    n_layers: int, *, prefix: str = "h", roles: Mapping[str, tuple[int, int]] = ROLES
) -> tuple[Site, ...]:
    sites = [site("pooler", None, "dense", (8, 8))]
    for layer in range(n_layers):
        sites += [site(f"{prefix}.{layer}.{role}", layer, role, widths) for role, widths in roles.items()]
        sites += [site(f"{prefix}.{layer}.norm{i}", layer, "norm", (8, 8)) for i in (1, 2)]
    return tuple(sites)


def context(sites: tuple[Site, ...], max_params: int) -> AllocationContext:
    scores = {entry.name: 1.0 + index % 3 for index, entry in enumerate(sites)}
    return AllocationContext(sites=sites, scores=scores, methods=METHODS, max_params=max_params)


def plan(adapters: tuple[Adapter, ...], sites: tuple[Site, ...]) -> Plan:
    by_name = {entry.name: entry for entry in sites}
    costs = [METHODS[a.method].cost(by_name[a.site], a.rank, dict(a.options)) for a in adapters]
    return Plan(adapters=adapters, learning_rate=1e-3, trainable_params=sum(costs))


def lora(name: str, rank: int, **more: object) -> Adapter:
    return Adapter(method="lora", site=name, rank=rank, scale=2.0, **more)  # type: ignore[arg-type]


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    beside = draw(st.sampled_from([(), (Policy(method="ia3", learning_rate=1e-3),)]))
    rule = draw(st.sampled_from(["constant", "rslora"]))
    return Policy(
        method="lora",
        placement=draw(st.sampled_from(["all", "q+v", "mlp"])),
        layer_share=draw(st.floats(0.2, 1)),
        exponent=draw(st.floats(0, 2)),
        options=(("scale_rule", rule), ("dora", draw(st.booleans()))),
        learning_rate=1e-3,
        beside=(*beside, Policy(method="ln_tuning", learning_rate=1e-3)),
    )


@given(policies(), st.integers(200, 4000))
def test_the_same_model_and_budget_give_the_same_plan(policy: Policy, budget: int) -> None:
    sites = model(4)
    source = plan_of(policy, context(sites, budget))
    moved = transfer(source, sites, context(sites, budget), source_budget=budget)
    assert (moved.plan, moved.lost) == (source, ())


@given(policies(), st.integers(200, 4000))
def test_the_same_shapes_under_other_names_get_the_same_ranks_and_scales(policy: Policy, budget: int) -> None:
    there, here = model(4), model(4, prefix="layers")
    source = plan_of(policy, context(there, budget))
    moved = transfer(source, there, context(here, source.trainable_params)).plan
    renamed = {replace(a, site=a.site.replace("h.", "layers.")) for a in source.adapters}
    assert set(moved.adapters) == renamed
    assert moved.trainable_params == source.trainable_params


@given(policies(), st.integers(200, 4000), st.integers(100, 6000), st.integers(1, 9))
def test_a_transferred_plan_is_within_the_budget_and_its_sites_have_the_old_roles(
    policy: Policy, before: int, now: int, n_layers: int
) -> None:
    there, here = model(4), model(n_layers)
    source = plan_of(policy, context(there, before))
    moved = transfer(source, there, context(here, now)).plan
    roles = {s.name: s.role for s in (*there, *here)}
    allowed = {(a.method, roles[a.site]) for a in source.adapters}
    assert {(a.method, roles[a.site]) for a in moved.adapters} <= allowed
    assert plan(moved.adapters, here).trainable_params == moved.trainable_params <= now
    assert transfer(source, there, context(here, now)).plan == moved


def test_twice_the_layers_take_after_the_same_relative_depth() -> None:
    there, here = model(2), model(4)
    source = plan((lora("h.0.q", 1), lora("h.1.q", 3)), there)
    moved = transfer(source, there, context(here, 2 * source.trainable_params))
    assert {a.site: a.rank for a in moved.plan.adapters} == {"h.0.q": 1, "h.1.q": 1, "h.2.q": 3, "h.3.q": 3}
    assert moved.lost == ()


def test_half_of_the_layers_say_what_they_passed_over() -> None:
    there, here = model(4), model(2)
    source = plan(tuple(lora(f"h.{i}.q", 2) for i in range(4)), there)
    moved = transfer(source, there, context(here, source.trainable_params // 2))
    assert {a.site: a.rank for a in moved.plan.adapters} == {"h.0.q": 2, "h.1.q": 2}
    assert moved.lost == ("2 of 4 adapters at the role q",)


def test_ranks_keep_their_proportions_under_a_larger_budget() -> None:
    sites = model(2)
    source = plan((lora("h.0.q", 1), lora("h.1.q", 2)), sites)
    moved = transfer(source, sites, context(sites, 2 * source.trainable_params)).plan
    assert [a.rank for a in moved.adapters] == [2, 4]


def test_a_plan_that_left_half_of_its_budget_leaves_half() -> None:
    sites = model(2)
    source = plan((lora("h.0.q", 1), lora("h.1.q", 2)), sites)
    moved = transfer(source, sites, context(sites, 4 * 48), source_budget=2 * source.trainable_params).plan
    assert source.trainable_params == 48
    assert moved.trainable_params == 2 * 48


def test_a_second_norm_takes_after_the_second() -> None:
    there, here = model(2), model(2, prefix="x")
    source = plan((Adapter(method="ln_tuning", site="h.0.norm2"),), there)
    moved = transfer(source, there, context(here, 100)).plan
    assert [a.site for a in moved.adapters] == ["x.0.norm2"]


def test_fused_maps_take_after_the_separate_ones_and_the_other_way_round() -> None:
    fused, apart = model(2, roles={"qkv": (8, 24)}), model(2)
    source = plan((lora("h.0.q", 1), lora("h.0.v", 2)), apart)
    moved = transfer(source, apart, context(fused, 2 * 32)).plan
    assert {a.site: a.rank for a in moved.adapters} == {"h.0.qkv": 2}
    back = transfer(moved, fused, context(apart, 4 * 16)).plan
    assert {a.site: a.rank for a in back.adapters} == {"h.0.q": 2, "h.0.v": 2}


@pytest.mark.parametrize(
    ("options", "scale", "expected"),
    [
        ({"scale_rule": "rslora"}, None, "rslora"),
        ({}, None, "rslora"),
        ({"scale_rule": "constant"}, None, "constant"),
        ({}, 0.5, "own"),
    ],
)
def test_the_scale_follows_its_rule(options: dict[str, str], scale: float | None, expected: str) -> None:
    sites = model(2)
    scales = [METHODS["lora"].scale(rank, **options) if scale is None else scale for rank in (1, 2)]
    source = plan(
        tuple(replace(lora(f"h.{i}.q", i + 1), scale=scales[i]) for i in range(2)),
        sites,
    )
    moved = transfer(source, sites, context(sites, 4 * source.trainable_params)).plan
    assert [a.rank for a in moved.adapters] == [4, 8]
    # 4 / sqrt(r) by rsLoRA, alpha a whole number; 2 whatever the rank; a scale of one's own stays.
    assert [a.scale for a in moved.adapters] == {
        "rslora": [2.0, 11 / 8],
        "constant": [2.0, 2.0],
        "own": [0.5, 0.5],
    }[expected]


def test_a_method_that_does_not_fit_and_roles_that_are_not_there_are_told() -> None:
    there = model(2)
    here = tuple(replace(bare, has_bias=False) for bare in model(2, roles={"q": (8, 8)}))
    source = plan(
        (Adapter(method="bitfit", site="h.0.v"), Adapter(method="bitfit", site="h.0.q"), lora("h.1.q", 1)),
        there,
    )
    moved = transfer(source, there, context(here, 500))
    assert {a.site for a in moved.plan.adapters} == {"h.1.q"}
    assert moved.lost[0].startswith("bitfit at the role q (there is no bias to train): 1 site")
    assert "1 of 1 adapters at the role v" in moved.lost


def test_what_the_budget_does_not_pay_is_told() -> None:
    sites = model(2)
    source = plan((lora("h.0.q", 1), lora("h.1.q", 1)), sites)
    moved = transfer(source, sites, context(sites, 31))
    assert moved.lost == ("1 site of the role q, which the budget does not pay",)


def test_a_cap_on_ranks_holds_on_the_same_model_too() -> None:
    sites = model(2)
    source = plan((lora("h.0.q", 1), lora("h.1.q", 6)), sites)
    moved = transfer(source, sites, context(sites, source.trainable_params), max_rank=4).plan
    assert [a.rank for a in moved.adapters] == [3, 4]


def test_a_cap_on_ranks_leaves_numbers_that_are_no_ranks() -> None:
    sites = model(2)
    source = plan((Adapter(method="shira", site="h.0.up", rank=4), lora("h.1.q", 2)), sites)
    assert transfer(source, sites, context(sites, source.trainable_params), max_rank=2).plan == source


def test_a_plan_of_which_nothing_maps_is_refused() -> None:
    there, here = model(2), model(2, roles={"q": (8, 8)})
    source = plan((lora("h.0.up", 1),), there)
    with pytest.raises(SpecError, match="cannot be mapped: no site here has the role"):
        transfer(source, there, context(here, 500))
    with pytest.raises(SpecError, match="cannot be mapped: no adapter of it fits the budget"):
        transfer(source, there, context(there, 10))


def test_the_head_alone_stays_the_head_alone() -> None:
    source = Plan(adapters=(), learning_rate=1e-3, trainable_params=0)
    assert transfer(source, model(2), context(model(3), 100)).plan == source

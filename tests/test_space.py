from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace

import optuna
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from optuna.samplers import RandomSampler

from autopeft.extension import Method, discover
from autopeft.records import Plan, Site
from autopeft.space import (
    Ground,
    MethodSpace,
    Policy,
    Space,
    baseline_policies,
    cheapest,
    feasible,
    load,
    names,
    parameters_of,
    plan_of,
    select_sites,
    suggest,
)

METHODS: Mapping[str, Method] = discover("autopeft.methods")
DEFAULT = load("default", known_methods=METHODS)
WIDTHS = {"q": (8, 8), "k": (8, 8), "v": (8, 8), "o": (8, 8), "up": (8, 32), "down": (32, 8)}
N_LAYERS = 4


def linear(name: str, *, layer: int | None, role: str, widths: tuple[int, int]) -> Site:
    n_in, n_out = widths
    return Site(
        name=name, layer=layer, role=role, kind="linear", in_features=n_in, out_features=n_out, has_bias=True
    )


def sites() -> tuple[Site, ...]:
    """An encoder as BERT: six linear maps and a norm in each layer, and a pooler outside the stack."""
    found = [linear("pooler.dense", layer=None, role="dense", widths=(8, 8))]
    for layer in range(N_LAYERS):
        found += [linear(f"h.{layer}.{role}", layer=layer, role=role, widths=WIDTHS[role]) for role in WIDTHS]
        found.append(replace(linear(f"h.{layer}.norm", layer=layer, role="norm", widths=(8, 8)), kind="norm"))
    return tuple(found)


# Rank 1 of LoRA: 16 at q, k, v, o; 40 at up, down; 144 in a layer; 16 at the pooler.
RANK_ONE = N_LAYERS * 144 + 16


def ground(max_params: int = 4 * RANK_ONE, *, scores: Mapping[str, float] | None = None) -> Ground:
    """The encoder with drawn scores, where none are given."""
    chance = random.Random(0)
    drawn = {site.name: chance.uniform(0.1, 1.0) for site in sites()}
    return Ground(sites=sites(), scores=scores or drawn, methods=METHODS, max_params=max_params)


def recount(plan: Plan) -> int:
    """Trainable parameters from the shapes in the papers, without asking the methods."""
    by_name, total = {site.name: site for site in sites()}, 0
    for adapter in plan.adapters:
        site, options = by_name[adapter.site], dict(adapter.options)
        if adapter.method == "lora":
            magnitude = site.out_features if options.get("dora") else 0
            total += adapter.rank * site.in_features + adapter.rank * site.out_features + magnitude
        elif adapter.method == "ia3":
            total += site.in_features if site.role == "down" else site.out_features
        else:
            total += site.out_features * (2 if adapter.method == "ln_tuning" else 1)
    return total


# Policies.


@pytest.mark.parametrize("name", names())
def test_the_parameters_of_a_policy_suggest_that_policy(name: str) -> None:
    space = load(name, known_methods=METHODS)
    drawn = optuna.create_study(sampler=RandomSampler(seed=0))
    again = optuna.create_study(sampler=RandomSampler(seed=1))
    for _ in range(25):
        policy = suggest(drawn.ask(), space, METHODS)
        parameters = parameters_of(policy, space, METHODS)
        assert parameters is not None
        again.enqueue_trial(parameters)
        trial = again.ask()
        assert suggest(trial, space, METHODS) == policy
        assert trial.params == parameters


@pytest.mark.parametrize(
    "change",
    [
        {"method": "head"},
        {"max_rank": 8},
        {"placement": "o"},
        {"layer_share": 0.1},
        {"exponent": 2.5},
        {"learning_rate": 0.5},
    ],
)
def test_a_policy_outside_the_space_has_no_parameters(change: dict[str, object]) -> None:
    policy = Policy(method="lora", learning_rate=1e-3)
    assert parameters_of(policy, DEFAULT, METHODS) is not None
    assert parameters_of(replace(policy, **change), DEFAULT, METHODS) is None  # type: ignore[arg-type]


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    """Any policy of the default space and some outside it."""
    return Policy(
        method=draw(st.sampled_from(sorted(METHODS))),
        placement=draw(st.sampled_from(["all", "attention", "mlp", "q+v", "o"])),
        layer_share=draw(st.floats(0.01, 1)),
        layers_by=draw(st.sampled_from(["last", "score"])),
        exponent=draw(st.floats(0, 4)),
        scale_rule=draw(st.sampled_from(["constant", "rslora"])),
        dora=draw(st.booleans()),
        max_rank=draw(st.integers(1, 64)),
        learning_rate=1e-3,
    )


@settings(max_examples=80, deadline=None)
@given(policies(), st.integers(16, 6000))
def test_a_plan_is_within_the_budget_and_never_empty(policy: Policy, budget: int) -> None:
    plan = plan_of(policy, ground(budget))
    assert recount(plan) == plan.trainable_params <= budget
    assert plan.adapters  # the cheapest site of every method costs 16 at most


@settings(max_examples=80, deadline=None)
@given(policies(), st.integers(16, 6000))
def test_no_upgrade_of_a_selected_site_is_affordable(policy: Policy, budget: int) -> None:
    own, method = ground(budget), METHODS[policy.method]
    selected, plan = select_sites(policy, own, method), plan_of(policy, own)
    price = {
        site.name: [method.cost(site, rank, method.options(site, dora=policy.dora)) for rank in range(1, 10)]
        for site in selected
    }
    assume(any(costs[0] <= budget for costs in price.values()))  # else it is widened
    ranks = {adapter.site: adapter.rank or 1 for adapter in plan.adapters}  # 0 where a method has no rank
    assert ranks.keys() <= price.keys()
    for site in selected:
        before, after = ([0, *price[site.name]][ranks.get(site.name, 0) + step] for step in (0, 1))
        is_full = ranks.get(site.name, 0) == min(policy.max_rank, method.max_rank(site))
        assert is_full or plan.trainable_params + after - before > budget


def test_a_policy_with_nothing_affordable_is_widened_to_what_is() -> None:
    # Rank 1 at up costs 40 and 72 with DoRA; at q 16 and 24.
    policy = Policy(method="lora", placement="mlp", layer_share=0.25, dora=True, learning_rate=1e-3)
    all_roles, no_dora = plan_of(policy, ground(30)), plan_of(policy, ground(20))
    assert [(dict(a.options), a.rank) for a in all_roles.adapters] == [({"dora": True}, 1)]
    assert [(dict(a.options), a.rank) for a in no_dora.adapters] == [({}, 1)]


def test_exponent_zero_ignores_the_scores() -> None:
    policy, other = Policy(method="lora", learning_rate=1e-3), {site.name: 0.0 for site in sites()}
    assert plan_of(policy, ground()) == plan_of(policy, ground(scores=other))


@pytest.mark.parametrize(
    ("exponent", "ranks"),
    # 12 ranks for weights 1 : 3**e : 1 : 1; a rank caps at 8, the width, and ties go to the later layer.
    [(0.0, [3, 3, 3, 3]), (1.0, [2, 6, 2, 2]), (2.0, [1, 8, 1, 2])],
)
def test_a_larger_exponent_moves_ranks_to_where_the_score_is_high(exponent: float, ranks: list[int]) -> None:
    own = ground(12 * 16, scores={site.name: 3.0 if site.layer == 1 else 1.0 for site in sites()})
    policy = Policy(method="lora", placement="q", exponent=exponent, learning_rate=1e-3)
    assert [adapter.rank for adapter in plan_of(policy, own).adapters] == ranks


def test_a_score_counts_per_trained_parameter() -> None:
    as_dear_as_good = {site.name: site.in_features + site.out_features for site in sites()}
    policy = Policy(method="lora", learning_rate=1e-3)
    bent = plan_of(replace(policy, exponent=3.0), ground(scores=as_dear_as_good))
    assert bent == plan_of(policy, ground())


@pytest.mark.parametrize(
    ("share", "by", "layers"),
    [
        (1.0, "last", {0, 1, 2, 3}),
        (0.5, "last", {2, 3}),
        (0.25, "last", {3}),
        (0.01, "last", {3}),
        (0.5, "score", {0, 2}),
        (0.25, "score", {2}),
    ],
)
def test_a_share_keeps_the_last_or_the_best_scored_layers(share: float, by: str, layers: set[int]) -> None:
    by_layer = {0: 3.0, 1: 1.0, 2: 9.0, 3: 2.0, None: 0.0}
    own = ground(scores={site.name: by_layer[site.layer] for site in sites()})
    policy = Policy(method="lora", placement="q+v", layer_share=share, layers_by=by, learning_rate=1e-3)
    found = select_sites(policy, own, METHODS["lora"])
    assert [site.name for site in found] == [f"h.{i}.{role}" for i in sorted(layers) for role in "qv"]


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
    assert {site.role for site in select_sites(policy, ground(), METHODS[method])} == roles


@pytest.mark.parametrize(("rule", "power"), [("constant", 0.0), ("rslora", 0.5)])
def test_a_scale_rule_keeps_scale_times_a_power_of_the_rank(rule: str, power: float) -> None:
    policy = Policy(method="lora", exponent=1.0, scale_rule=rule, learning_rate=1e-3)
    adapters = plan_of(policy, ground()).adapters
    expected = {"constant": 2.0, "rslora": 4.0}[rule]  # alpha / r = 2; alpha / sqrt(r) = 4
    assert len({a.rank for a in adapters}) > 1
    assert [a.scale * a.rank**power for a in adapters] == pytest.approx([expected] * len(adapters))


# Baselines and what fits.


@pytest.mark.parametrize(
    ("budget", "shares"),
    [
        (RANK_ONE, {"all linear maps": 1.0}),
        (RANK_ONE - 1, {"all linear maps of the last layers": 0.75, "q and v of the last layers": 1.0}),
        (160, {"all linear maps of the last layers": 0.25, "q and v of the last layers": 1.0}),
        (159, {"q and v of the last layers": 1.0}),
        (127, {"q and v of the last layers": 0.75}),
        (32, {"q and v of the last layers": 0.25}),
        (31, {"what fits": 1.0}),
    ],
)
def test_baselines_narrow_as_the_budget_does(budget: int, shares: dict[str, float]) -> None:
    found = baseline_policies(ground(budget), learning_rate=1e-3)
    assert {name.removeprefix("LoRA on "): own.layer_share for name, own in found.items()} == shares
    for name, policy in found.items():
        assert policy.placement == ("q+v" if "q and v" in name else "all")
        n_sites = len(select_sites(policy, ground(budget), METHODS["lora"])) if budget >= 32 else 1
        assert len(plan_of(policy, ground(budget)).adapters) == n_sites


def test_a_fused_projection_stands_for_q_and_v() -> None:
    fused = tuple(linear(f"h.{i}.c_attn", layer=i, role="qkv", widths=(8, 24)) for i in range(3))
    scores = {site.name: 1.0 for site in fused}
    own = Ground(sites=fused, scores=scores, methods=METHODS, max_params=70)
    found = baseline_policies(own, learning_rate=1e-3)
    assert {policy.placement for policy in found.values()} == {"all", "qkv"}


def test_the_cheapest_plan_of_each_method_is_its_cheapest_site() -> None:
    assert cheapest(DEFAULT, ground()) == {"lora": 16, "ia3": 8, "bitfit": 8, "ln_tuning": 16}


@pytest.mark.parametrize(
    ("budget", "kept"),
    [(16, {"lora", "ia3", "bitfit", "ln_tuning"}), (15, {"ia3", "bitfit"}), (7, set())],
)
def test_methods_that_do_not_fit_the_budget_are_dropped(budget: int, kept: set[str]) -> None:
    assert set(feasible(DEFAULT, ground(budget)).methods) == kept


def test_methods_without_a_site_are_dropped() -> None:
    space = Space(about="norms", methods={"ln_tuning": MethodSpace(), "lora": MethodSpace()})
    own = replace(ground(), sites=tuple(site for site in sites() if site.kind != "norm"))
    assert list(feasible(space, own).methods) == ["lora"]

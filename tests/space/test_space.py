from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction

import optuna
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from optuna.samplers import RandomSampler

from autopeft.extension import Method, discover
from autopeft.records import Plan, Site
from autopeft.space import (
    AllocationContext,
    MethodSpace,
    MixPart,
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
DORA = (("dora", True),)
CLOSED_FORMS = ("lora", "ia3", "bitfit", "ln_tuning", "oft", "miss", "hira")  # those that `recount` knows


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


def context(
    max_params: int = 4 * RANK_ONE, *, scores: Mapping[str, float] | None = None
) -> AllocationContext:
    """The encoder with drawn scores, where none are given."""
    chance = random.Random(0)
    drawn = {site.name: chance.uniform(0.1, 1.0) for site in sites()}
    return AllocationContext(sites=sites(), scores=scores or drawn, methods=METHODS, max_params=max_params)


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
        elif adapter.method == "oft":
            total += site.in_features // adapter.rank * (adapter.rank * (adapter.rank - 1) // 2)
        elif adapter.method in ("miss", "hira"):
            n_inputs = site.in_features if adapter.method == "hira" else 0
            total += adapter.rank * (n_inputs + site.out_features)
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
        {"options": (("init", "orthogonal"),)},
        {"beside": (Policy(method="ia3", learning_rate=1e-3),)},
        {"placement": "o"},
        {"layer_share": 0.1},
        {"exponent": 2.5},
        {"learning_rate": 0.5},
    ],
)
def test_a_policy_outside_the_space_has_no_parameters(change: dict[str, object]) -> None:
    policy = Policy(method="lora", max_rank=64, learning_rate=1e-3)
    assert parameters_of(policy, DEFAULT, METHODS) is not None
    assert parameters_of(replace(policy, **change), DEFAULT, METHODS) is None  # type: ignore[arg-type]


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    """Any policy of the default space and some outside it; half of them with parts beside the first."""

    def part(name: str) -> Policy:
        chosen = {option: draw(st.sampled_from(values)) for option, values in METHODS[name].choices.items()}
        return Policy(
            method=name,
            placement=draw(st.sampled_from(["all", "attention", "mlp", "q+v", "o"])),
            layer_share=draw(st.floats(0.01, 1)),
            layers_by=draw(st.sampled_from(["last", "first", "middle", "score", "0110", "101", "00"])),
            exponent=draw(st.floats(0, 4)),
            options=tuple(sorted(chosen.items())),
            min_rank=draw(st.one_of(st.none(), st.integers(1, 5))),
            max_rank=draw(st.one_of(st.none(), st.integers(2, 64))),  # 2 is the smallest of OFT and MiSS
            learning_rate=1e-3,
        )

    first, *others = draw(st.lists(st.sampled_from(CLOSED_FORMS), min_size=1, max_size=3, unique=True))
    share = draw(st.one_of(st.just(1.0), st.floats(0.05, 1)))
    return replace(part(first), budget_share=share, beside=tuple(part(name) for name in others))


@settings(max_examples=120, deadline=None)
@given(policies(), st.integers(24, 6000))
def test_a_plan_is_within_the_budget_and_never_empty(policy: Policy, budget: int) -> None:
    plan = plan_of(policy, context(budget))
    assert recount(plan) == plan.trainable_params <= budget
    assert plan.adapters  # the cheapest site of every method here costs 24 at most
    assert len({adapter.site for adapter in plan.adapters}) == len(plan.adapters)


@settings(max_examples=120, deadline=None)
@given(policies(), st.integers(24, 6000))
def test_no_upgrade_of_a_selected_site_is_affordable(policy: Policy, budget: int) -> None:
    own, plan = context(budget), plan_of(policy, context(budget))
    allowed = math.floor(Fraction(repr(policy.budget_share)) * budget)
    left = allowed - plan.trainable_params
    granted = {adapter.site: adapter for adapter in plan.adapters}
    claimed: dict[str, tuple[Policy, Site]] = {}
    for part in (policy, *policy.beside):
        for site in select_sites(part, own, METHODS[part.method]):
            if prices(part, site):
                claimed.setdefault(site.name, (part, site))
    assume(
        any(min(prices(part, site).values()) <= allowed for part, site in claimed.values())
    )  # else widened
    assert granted.keys() <= claimed.keys()
    for name, (part, site) in claimed.items():
        rank = (granted[name].rank or 1) if name in granted else 0  # 0 where a method has no rank
        dearer = [price for other, price in sorted(prices(part, site).items()) if other > rank]
        assert not dearer or dearer[0] - prices(part, site).get(rank, 0) > left


@settings(max_examples=80, deadline=None)
@given(policies(), st.integers(24, 4000), st.integers(0, 600))
def test_what_a_plan_spends_never_falls_when_the_budget_rises(policy: Policy, budget: int, more: int) -> None:
    whole = replace(policy, budget_share=1.0)
    poor, rich = (plan_of(whole, context(own)) for own in (budget, budget + more))
    assert recount(poor) <= recount(rich)


@settings(max_examples=40, deadline=None)
@given(policies(), st.integers(24, 4000), st.randoms(use_true_random=False))
def test_a_plan_does_not_depend_on_the_order_of_sites_and_comes_out_the_same_again(
    policy: Policy, budget: int, chance: random.Random
) -> None:
    own = context(budget)
    shuffled = replace(own, sites=tuple(chance.sample(own.sites, len(own.sites))))
    assert plan_of(policy, own) == plan_of(policy, own) == plan_of(policy, shuffled)


def prices(part: Policy, site: Site) -> dict[int, int]:
    """Rank -> parameters, as far as the policy's cap allows; a method without a rank has one."""
    method = METHODS[part.method]
    options = method.options(site, **dict(part.options))
    lowest, highest = (part.min_rank or 0, part.max_rank or 10**6) if method.ranked else (0, 10**6)
    allowed = [rank for rank in method.ranks(site, options) if lowest <= rank <= highest]
    return {rank: method.cost(site, rank, options) for rank in allowed}


def test_parts_of_a_mix_take_what_is_left_and_keep_their_own_learning_rates() -> None:
    mix = Policy(
        method="lora",
        placement="attention",
        learning_rate=2e-3,
        beside=(Policy(method="ia3", learning_rate=2e-3), Policy(method="ln_tuning", learning_rate=2e-3)),
    )
    plan = plan_of(mix, context())
    methods = {site.role: {a.method for a in plan.adapters if a.site.endswith(site.role)} for site in sites()}
    assert methods == {
        **{role: {"lora"} for role in ("q", "k", "v", "o")},
        **{role: {"ia3"} for role in ("up", "down", "dense")},
        "norm": {"ln_tuning"},
    }
    middle = {name: math.sqrt(math.prod(METHODS[name].learning_rate_range)) for name in METHODS}
    for adapter in plan.adapters:
        expected = middle[adapter.method] / middle["lora"]
        assert adapter.rate_factor == pytest.approx(expected, rel=5e-3)
    assert str(mix.arm) == "lora/attention & ia3/all & ln_tuning/all"


def test_a_spectrum_stands_in_for_the_score_where_the_policy_asks_for_it() -> None:
    energies = {
        site.name: (2.0, 2.0) if site.layer == 1 and site.role == "q" else (1.0, 0.1) for site in sites()
    }
    own = replace(context(7 * 16), profiles=energies)
    policy = Policy(method="lora", placement="q+v", ranks_by="spectrum", exponent=2.0, learning_rate=1e-3)
    ranks = {adapter.site: adapter.rank for adapter in plan_of(policy, own).adapters}
    # q of layer 1 twice at 2.0, then five of the other seven sites once at 1.0, the later first.
    assert ranks["h.1.q"] == 2 and sorted(ranks.values()) == [1, 1, 1, 1, 1, 2]
    scored = plan_of(replace(policy, ranks_by="score"), own)
    assert scored == plan_of(replace(policy, ranks_by="score"), replace(own, profiles={}))


def test_a_policy_with_nothing_affordable_is_widened_to_what_is() -> None:
    # Rank 1 at up costs 40 and 72 with DoRA; at q 16 and 24.
    policy = Policy(method="lora", placement="mlp", layer_share=0.25, options=DORA, learning_rate=1e-3)
    all_roles, no_dora = plan_of(policy, context(30)), plan_of(policy, context(20))
    assert [(dict(a.options), a.rank) for a in all_roles.adapters] == [({"dora": True}, 1)]
    assert [(dict(a.options), a.rank) for a in no_dora.adapters] == [({}, 1)]


def test_exponent_zero_ignores_the_scores() -> None:
    policy, other = Policy(method="lora", learning_rate=1e-3), {site.name: 0.0 for site in sites()}
    assert plan_of(policy, context()) == plan_of(policy, context(scores=other))


@pytest.mark.parametrize(
    ("exponent", "ranks"),
    # 12 ranks for weights 1 : 3**e : 1 : 1; a rank caps at 8, the width, and ties go to the later layer.
    [(0.0, [3, 3, 3, 3]), (1.0, [2, 6, 2, 2]), (2.0, [1, 8, 1, 2])],
)
def test_a_larger_exponent_moves_ranks_to_where_the_score_is_high(exponent: float, ranks: list[int]) -> None:
    own = context(12 * 16, scores={site.name: 3.0 if site.layer == 1 else 1.0 for site in sites()})
    policy = Policy(method="lora", placement="q", exponent=exponent, learning_rate=1e-3)
    assert [adapter.rank for adapter in plan_of(policy, own).adapters] == ranks


def test_a_score_counts_per_trained_parameter() -> None:
    as_dear_as_good = {site.name: site.in_features + site.out_features for site in sites()}
    policy = Policy(method="lora", learning_rate=1e-3)
    bent = plan_of(replace(policy, exponent=3.0), context(scores=as_dear_as_good))
    assert bent == plan_of(policy, context())


@pytest.mark.parametrize(
    ("share", "by", "layers"),
    [
        (1.0, "last", {0, 1, 2, 3}),
        (0.5, "last", {2, 3}),
        (0.25, "last", {3}),
        (0.01, "last", {3}),
        (0.5, "first", {0, 1}),
        (0.5, "middle", {1, 2}),
        (0.25, "middle", {1}),
        (0.5, "score", {0, 2}),
        (0.25, "1001", {0, 3}),  # parts of the depth, whatever the share
        (0.25, "01", {2, 3}),
        (0.25, "01000010", {3}),  # layer i of 4 lies in part 2 i of 8: part 1 holds none
        (0.25, "0000", set()),
        (0.25, "score", {2}),
    ],
)
def test_a_share_keeps_the_layers_that_are_asked_for(share: float, by: str, layers: set[int]) -> None:
    by_layer = {0: 3.0, 1: 1.0, 2: 9.0, 3: 2.0, None: 0.0}
    own = context(scores={site.name: by_layer[site.layer] for site in sites()})
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
    assert {site.role for site in select_sites(policy, context(), METHODS[method])} == roles


@pytest.mark.parametrize("rule", ["constant", "rslora"])
def test_a_scale_rule_gives_whole_alphas_of_its_power_of_the_rank(rule: str) -> None:
    policy = Policy(method="lora", exponent=1.0, options=(("scale_rule", rule),), learning_rate=1e-3)
    adapters = plan_of(policy, context()).adapters
    assert len({a.rank for a in adapters}) > 1
    for adapter in adapters:
        alpha = adapter.scale * adapter.rank
        expected = {"constant": 2.0 * adapter.rank, "rslora": 4.0 * adapter.rank**0.5}[rule]
        assert alpha == pytest.approx(round(alpha)) and abs(alpha - expected) <= 0.5


@pytest.mark.parametrize(
    ("floor", "cap", "ranks"), [(1, 8, [3, 4]), (4, 8, [7]), (1, 2, [2, 2]), (3, 3, [3, 3])]
)
def test_a_floor_gives_a_site_nothing_rather_than_less(floor: int, cap: int, ranks: list[int]) -> None:
    # Seven ranks of 16 parameters for q of two layers; from a floor of 4 on, the later alone.
    own = context(7 * 16)
    policy = Policy(
        method="lora", placement="q", layer_share=0.5, min_rank=floor, max_rank=cap, learning_rate=1e-3
    )
    assert [adapter.rank for adapter in plan_of(policy, own).adapters] == ranks


def test_a_floor_above_every_rank_of_all_sites_is_dropped_with_the_options() -> None:
    policy = Policy(method="lora", placement="q", min_rank=9, options=DORA, learning_rate=1e-3)
    plan = plan_of(policy, context())
    assert plan.adapters and not any(adapter.options for adapter in plan.adapters)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 100), st.integers(16, 4000))
def test_a_budget_share_is_the_budget_of_that_size(percent: int, budget: int) -> None:
    policy = Policy(method="lora", learning_rate=1e-3)
    part = plan_of(replace(policy, budget_share=percent / 100), context(budget))
    share = percent * budget // 100  # exact in integers: 29 % of 100 is 29
    expected = context(share if share >= 16 else budget)  # too little for one site: all of it
    assert part == plan_of(policy, expected)


def test_a_size_is_the_rank_at_every_site_and_0_leaves_the_part_out() -> None:
    space = Space(
        about="as AutoPEFT",
        mixes={
            "both": (
                MixPart(
                    method="bottleneck", placement=("down",), layers_by=("any",), depth_parts=4, size=(0, 4)
                ),
                MixPart(method="lora", placement=("q",), layers_by=("lead",), size=(0, 2)),
            )
        },
    )
    study = optuna.create_study(sampler=RandomSampler(seed=0))
    depth = {f"both.0.depth.{index}": int(index in (1, 3)) for index in range(4)}
    for serial in (0, 4):
        study.enqueue_trial({"both.0.size": serial, "both.1.size": 2, "both.0.learning_rate": 1e-3, **depth})
        policy = suggest(study.ask(), space, METHODS)
        ranks = {adapter.site: adapter.rank for adapter in plan_of(policy, context()).adapters}
        expected = {"h.1.q": 2, "h.3.q": 2, "h.1.down": 4, "h.3.down": 4}
        assert ranks == {site: rank for site, rank in expected.items() if rank == 2 or serial}
    assert cheapest(space, context()) == {"both": 2 * 16}  # either alone: a bottleneck of 4 costs 76


def test_a_share_that_may_be_drawn_is_given_to_every_arm() -> None:
    space = DEFAULT.sharing(0.1)
    study = optuna.create_study(sampler=RandomSampler(seed=0))
    found = [suggest(study.ask(), space, METHODS) for _ in range(40)]
    assert all(0.1 <= policy.budget_share <= 1 for policy in found)
    assert len({policy.budget_share for policy in found}) == 40
    assert all(part.budget_share == 1.0 for policy in found for part in policy.beside)


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
    found = baseline_policies(context(budget), learning_rate=1e-3)
    assert {name.removeprefix("LoRA on "): own.layer_share for name, own in found.items()} == shares
    for name, policy in found.items():
        assert policy.placement == ("q+v" if "q and v" in name else "all")
        n_sites = len(select_sites(policy, context(budget), METHODS["lora"])) if budget >= 32 else 1
        assert len(plan_of(policy, context(budget)).adapters) == n_sites


def test_a_fused_projection_stands_for_q_and_v() -> None:
    fused = tuple(linear(f"h.{i}.c_attn", layer=i, role="qkv", widths=(8, 24)) for i in range(3))
    scores = {site.name: 1.0 for site in fused}
    own = AllocationContext(sites=fused, scores=scores, methods=METHODS, max_params=70)
    found = baseline_policies(own, learning_rate=1e-3)
    assert {policy.placement for policy in found.values()} == {"all", "qkv"}


def test_the_cheapest_plan_of_each_method_is_its_cheapest_site() -> None:
    assert cheapest(DEFAULT, context()) == {
        **{"lora": 16, "ia3": 8, "bitfit": 8, "ln_tuning": 16},
        "lora+ia3+norms": 16 + 8 + 16,
    }


@pytest.mark.parametrize(
    ("budget", "kept"),
    [(16, {"lora", "ia3", "bitfit", "ln_tuning"}), (15, {"ia3", "bitfit"}), (7, set())],
)
def test_methods_that_do_not_fit_the_budget_are_dropped(budget: int, kept: set[str]) -> None:
    assert set(feasible(DEFAULT, context(budget)).arms) == kept


def test_a_mix_is_dropped_where_one_part_of_it_fits_no_site() -> None:
    assert "lora+ia3+norms" in feasible(DEFAULT, context(40)).arms
    own = replace(context(40), sites=tuple(site for site in sites() if site.kind != "norm"))
    assert list(feasible(DEFAULT, own).mixes) == []


def test_methods_without_a_site_are_dropped() -> None:
    space = Space(about="norms", methods={"ln_tuning": MethodSpace(), "lora": MethodSpace()})
    own = replace(context(), sites=tuple(site for site in sites() if site.kind != "norm"))
    assert list(feasible(space, own).methods) == ["lora"]

"""The listed plans of a search: what becomes of the list under a budget, in a space."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from toys.space import DEFAULT, METHODS, N_LAYERS, RANK_ONE, context, targets

from autopeft.space import ListedPlan, MethodSpace, Policy, Space, listed_policies, plan_of, select_targets
from autopeft.types import Arm

LORA = ListedPlan(method="lora", rate=0.4, baseline=True)
AT_Q_AND_V = LORA.model_copy(update={"placement": "q+v"})
BY_SCORE = ListedPlan(method="lora", select="best_layers", rate=0.4)
IA3 = ListedPlan(method="ia3", rate=0.5)
SPACE = Space(
    about="toy",
    methods={
        "lora": MethodSpace(
            placement=("all", "q+v"), layer_share=(0.25, 1.0), select=("last_layers", "best_layers")
        ),
        "ia3": MethodSpace(),
    },
)
Listed = list[tuple[Arm, Policy]]


def listed(
    *entries: ListedPlan,
    small: Sequence[ListedPlan] = (),
    space: Space = SPACE,
    budget: int = RANK_ONE,
    **more: Any,
) -> Listed:
    with_list = space.model_copy(update={"listed": {"classification": entries, "small": small}})
    return list(listed_policies(with_list, "classification", context(budget, **more)))


@pytest.mark.parametrize(("budget", "is_added"), [(RANK_ONE, False), (128, False), (127, True)])
def test_the_list_for_small_budgets_is_added_where_no_baseline_covers_all_layers(
    budget: int, is_added: bool
) -> None:
    """Rank 1 at q and v costs 32 in each of four layers."""
    fast = IA3.model_copy(update={"rate": 1.0})
    found = listed(LORA, AT_Q_AND_V, IA3, small=(fast,), budget=budget)
    rates = [policy.learning_rate for _, policy in found if policy.method == "ia3"]
    low, high = METHODS["ia3"].learning_rate_range
    assert rates == pytest.approx([(low * high) ** 0.5, high] if is_added else [(low * high) ** 0.5])


def scores(by_layer: Mapping[int, float]) -> dict[str, float]:
    return {target.name: by_layer.get(target.layer, 0.0) for target in targets()}


@pytest.mark.parametrize(
    ("budget", "shares"),
    [
        # Rank 1 costs 144 in a layer and 16 at the pooler; at q and v 32 in a layer.
        (RANK_ONE, {"all linear layers": 4, "q and v": 4}),
        (RANK_ONE - 1, {"all linear layers in the last layers": 3, "q and v": 4}),
        (160, {"all linear layers in the last layers": 1, "q and v": 4}),
        (159, {"q and v": 4}),
        (127, {"q and v in the last layers": 3}),
        (32, {"q and v in the last layers": 1}),
    ],
)
def test_baselines_have_as_many_of_the_last_layers_as_the_budget_covers(
    budget: int, shares: dict[str, int]
) -> None:
    allocation, found = context(budget), listed(LORA, AT_Q_AND_V, budget=budget)
    baselines = {arm.label: policy for arm, policy in found if arm.kind == "baseline"}
    assert {label: policy.layer_share * N_LAYERS for label, policy in baselines.items()} == {
        f"LoRA on {label}": pytest.approx(n_layers) for label, n_layers in shares.items()
    }
    for policy in baselines.values():
        plan, selected = plan_of(policy, allocation), select_targets(policy, allocation, METHODS["lora"])
        assert {adapter.target for adapter in plan.adapters} == {target.name for target in selected}
        assert plan.trainable_params <= budget


@pytest.mark.parametrize(("budget", "position"), [(RANK_ONE, 0.2), (RANK_ONE - 1, 0.6)])
def test_a_plan_may_have_another_rate_where_the_budget_covers_only_some_layers(
    budget: int, position: float
) -> None:
    entry = ListedPlan(method="lora", rate=0.2, rate_in_some_layers=0.6, baseline=True)
    (_, policy), *_ = listed(entry, budget=budget)
    low, high = METHODS["lora"].learning_rate_range
    assert math.log(policy.learning_rate / low) == pytest.approx(position * math.log(high / low))


@pytest.mark.parametrize(("budget", "n_baselines"), [(31, 1), (16, 1), (15, 0)])
def test_where_no_layer_fits_lora_is_the_baseline_wherever_it_fits(budget: int, n_baselines: int) -> None:
    """Rank 1 costs 16 at the cheapest target module."""
    found = listed(LORA, AT_Q_AND_V, IA3, budget=budget)
    baselines = [policy for arm, policy in found if arm.kind == "baseline"]
    assert len(baselines) == n_baselines
    assert all(len(plan_of(policy, context(budget)).adapters) == 1 for policy in baselines)


@pytest.mark.parametrize(
    ("budget", "by_layer", "layers"),
    [
        (160, {0: 3.0, 1: 1.0, 2: 9.0, 3: 2.0}, {2}),  # rank 1 fits in one layer
        (RANK_ONE - 1, {0: 3.0, 1: 1.0, 2: 9.0, 3: 2.0}, {0, 2, 3}),  # in three
        (160, {0: 0.0, 1: 1.0, 2: 2.0, 3: 3.0}, None),  # the layer of the baseline
        (RANK_ONE, {0: 3.0, 1: 1.0, 2: 9.0, 3: 2.0}, None),  # in all
        (31, {0: 3.0, 1: 1.0, 2: 9.0, 3: 2.0}, None),  # in none
    ],
)
def test_lora_in_the_layers_of_the_highest_score_is_tried_where_these_are_not_the_last(
    budget: int, by_layer: dict[int, float], layers: set[int] | None
) -> None:
    found = listed(LORA, BY_SCORE, IA3, budget=budget, scores=scores(by_layer))
    scored = [policy for arm, policy in found if policy.select == "best_layers"]
    assert len(scored) == (layers is not None)
    for policy in scored:
        selected = select_targets(policy, context(budget, scores=scores(by_layer)), METHODS["lora"])
        assert {target.layer for target in selected} - {None} == layers


def test_equal_plans_are_listed_once_and_baselines_first() -> None:
    dora = LORA.model_copy(update={"options": {"dora": True}})
    low = LORA.model_copy(update={"rate": 0.1})
    kinds = [arm.kind for arm, _ in listed(IA3, LORA, LORA, dora, low)]
    assert kinds == ["baseline", "baseline", "baseline", "usual"]


@pytest.mark.parametrize(
    "entry",
    [
        ListedPlan(method="hira", rate=0.5),
        ListedPlan(method="ia3", placement="q+v", rate=0.5),
        ListedPlan(method="ia3", select="best_layers", layer_share=0.5, rate=0.5),
        ListedPlan(method="lora", options={"dora": True}, rate=0.5),
    ],
    ids=["method", "placement", "layers", "option"],
)
def test_a_challenger_that_the_space_does_not_have_is_left_out(entry: ListedPlan) -> None:
    found = listed(LORA, IA3, entry)
    assert [(policy.method, policy.options) for _, policy in found] == [("lora", ()), ("ia3", ())]


def test_without_a_challenger_the_methods_of_the_space_stand_in() -> None:
    space = SPACE.only(["ia3"])
    found = listed(LORA, BY_SCORE, ListedPlan(method="hira", rate=0.5), space=space)
    assert [(arm.kind, policy.method) for arm, policy in found] == [("baseline", "lora"), ("usual", "ia3")]


@pytest.mark.parametrize("family", ["classification", "tagging", "language", "images"])
@pytest.mark.parametrize("budget", [16, 100, 600, 5000])
def test_no_plan_of_the_default_list_exceeds_the_budget_and_none_is_empty(family: str, budget: int) -> None:
    allocation = context(budget)
    plans = [plan_of(policy, allocation) for _, policy in listed_policies(DEFAULT, family, allocation)]
    assert len(set(plans)) == len(plans) > 1
    assert all(0 < plan.trainable_params <= budget for plan in plans)


def test_a_rate_is_a_position_in_the_range_of_the_method_or_of_the_space() -> None:
    fixed = SPACE.methods["ia3"].model_copy(update={"learning_rate": (1e-3, 1e-1)})
    space = SPACE.model_copy(update={"methods": {**SPACE.methods, "ia3": fixed}})
    (_, lora), (_, ia3) = listed(LORA, IA3, space=space)
    low, high = METHODS["lora"].learning_rate_range
    assert math.log(lora.learning_rate / low) == pytest.approx(0.4 * math.log(high / low))
    assert ia3.learning_rate == pytest.approx(1e-2)


def test_the_rate_of_hira_falls_with_the_root_of_its_rank() -> None:
    """LoRA's scale makes up for the rank; HiRA has none."""
    space = SPACE.model_copy(update={"methods": {**SPACE.methods, "hira": MethodSpace()}})
    entry = ListedPlan(method="hira", rate=0.9)
    rates = {}
    for rank in (1, 4):
        policy = next(
            p for a, p in listed(LORA, entry, space=space, budget=rank * RANK_ONE) if a.kind == "usual"
        )
        assert {a.rank for a in plan_of(policy, context(rank * RANK_ONE)).adapters} == {rank}
        rates[rank] = policy.learning_rate
    assert rates[1] / rates[4] == pytest.approx(2.0)

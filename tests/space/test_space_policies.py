"""Policies and the trials that propose them."""

from __future__ import annotations

from dataclasses import replace

import optuna
import pytest
from optuna.samplers import RandomSampler
from toys.space import DEFAULT, METHODS, context

from autopeft.space import MixPart, Policy, Space, cheapest, plan_of, suggest, within


@pytest.mark.parametrize(
    "change",
    [
        {"options": (("init", "orthogonal"),)},
        {"placement": "o"},
        {"layer_share": 0.1},
        {"exponent": 2.5},
    ],
)
def test_a_policy_outside_an_arm_is_not_within_it(change: dict[str, object]) -> None:
    policy = Policy(method="lora", max_rank=64, learning_rate=1e-3)
    assert within(policy, DEFAULT, "lora", METHODS) == policy
    assert within(replace(policy, **change), DEFAULT, "lora", METHODS) is None  # type: ignore[arg-type]


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
    depth = {f"depth.{index}": int(index in (1, 3)) for index in range(4)}
    for serial in (0, 4):
        study.enqueue_trial({"size": serial, "part2.size": 2, "rate_position": 0.5, **depth})
        policy = suggest(study.ask(), space, METHODS)
        ranks = {adapter.site: adapter.rank for adapter in plan_of(policy, context()).adapters}
        expected = {"h.1.q": 2, "h.3.q": 2, "h.1.down": 4, "h.3.down": 4}
        assert ranks == {site: rank for site, rank in expected.items() if rank == 2 or serial}
    assert cheapest(space, context()) == {"both": 2 * 16}  # either alone: a bottleneck of 4 costs 76


def test_a_share_that_may_be_drawn_is_given_to_every_arm() -> None:
    share = {"budget_share": (0.1, 1.0)}
    methods = {name: part.model_copy(update=share) for name, part in DEFAULT.methods.items()}
    space = DEFAULT.model_copy(update={"methods": methods, "mixes": {}})
    study = optuna.create_study(sampler=RandomSampler(seed=0))
    sampled = [suggest(study.ask(), space, METHODS) for _ in range(40)]
    assert all(0.1 <= policy.budget_share <= 1 for policy in sampled)
    assert len({policy.budget_share for policy in sampled}) == 40

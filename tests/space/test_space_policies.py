"""Policies and the trials that propose them."""

from __future__ import annotations

from dataclasses import replace

import optuna
import pytest
from optuna.samplers import RandomSampler
from toys.space import DEFAULT, METHODS, context

from autopeft.space import MixPart, Policy, Space, cheapest, load, names, parameters_of, plan_of, suggest


def is_same(policy: Policy, other: Policy) -> bool:
    """Whether two policies differ by rounding at most."""
    rates = [part.learning_rate for part in (policy, *policy.beside)]
    assert rates == pytest.approx([part.learning_rate for part in (other, *other.beside)])
    return replace(policy, learning_rate=1.0, beside=()) == replace(other, learning_rate=1.0, beside=())


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
        assert is_same(suggest(trial, space, METHODS), policy)
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

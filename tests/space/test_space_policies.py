"""Policies and the trials that propose them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from toys.space import DEFAULT, METHODS

from autopeft.space import Policy, within


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

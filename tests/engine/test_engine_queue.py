"""The queue keeps to the user's space: the usual arms come only where the space can express them."""

from __future__ import annotations

import pytest
from toys.engine import METHODS, ROOMY, problem

from autopeft.engine.queue import enqueued
from autopeft.records import LimitSpec
from autopeft.space import MethodSpace, Policy, Space, limited


def usual(space: Space, limits: LimitSpec | None = None, *, max_params: int = ROOMY) -> dict[str, Policy]:
    """Label -> policy of each usual arm in the queue."""
    asked = limited(space, limits or LimitSpec(), METHODS)
    queue = enqueued(problem(space=asked, trials=40, max_params=max_params))
    return {arm.label: policy for arm, policy in queue if arm.kind == "usual"}


def of_lora(**choices) -> Space:
    return Space(about="mine", methods={"lora": MethodSpace(**choices)})


@pytest.mark.parametrize(
    "choices",
    [
        {"options": {"dora": (True,)}, "placement": ("mlp",)},
        {"placement": ("all", "q+v")},
        {"placement": ("mlp",), "layer_share": (0.25, 0.5)},
        {"placement": ("mlp",), "exponent": (1.0, 2.0)},
    ],
)
def test_a_usual_arm_that_the_space_cannot_express_is_left_out(choices):
    assert not usual(of_lora(**choices))


def test_a_usual_arm_keeps_to_the_ranks_of_the_space():
    policy = usual(of_lora(placement=("mlp",), max_rank=3))["lora/mlp"]
    assert policy.max_rank == 3

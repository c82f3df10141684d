"""The queue keeps to the user's space: the usual arms come only where the space can express them."""

from __future__ import annotations

import pytest
from toys.engine import METHODS, ROOMY, problem

from autopeft.engine.queue import enqueued
from autopeft.records import LimitSpec
from autopeft.space import MethodSpace, MixPart, Policy, Space, limited, load


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


@pytest.mark.parametrize(
    "choices",
    [
        {},
        {"ranks_by": ("uniform",)},
        {"layers_by": ("score",), "layer_share": (0.5, 1.0)},
        {"options": {"dora": (True, False)}},
        {"exponent": (0.0, 2.0)},
    ],
)
def test_a_usual_arm_that_the_space_says_in_other_words_comes(choices):
    assert list(usual(of_lora(placement=("mlp",), **choices))) == ["lora/mlp"]


def test_a_usual_arm_keeps_to_the_ranks_of_the_space():
    policy = usual(of_lora(placement=("mlp",), max_rank=3))["lora/mlp"]
    assert policy.max_rank == 3


@pytest.mark.parametrize("limits", [LimitSpec(), LimitSpec(max_rank=8)])
def test_the_default_space_has_every_usual_arm(limits):
    arms = usual(load("default", known_methods=METHODS), limits)
    mix = "lora/q+v & ia3/mlp & ln_tuning/all"
    assert set(arms) == {"ia3/all", "road/all", "hira/all", mix, "ln_tuning/all", "lora/mlp", "bitfit/all"}
    assert arms["lora/mlp"].max_rank == (limits.max_rank or 64)


def test_of_two_mixes_of_the_same_methods_the_one_that_has_the_arm_is_taken():
    norms = MixPart(method="ln_tuning")
    ia3 = [MixPart(method="ia3", placement=(placement,)) for placement in ("all", "mlp")]
    lora = [MixPart(method="lora", placement=(p,)) for p in ("all", "q+v")]
    mixes = {name: (lora[i], ia3[i], norms) for name, i in (("first", 0), ("second", 1))}
    assert list(usual(Space(about="mine", mixes=mixes))) == ["lora/q+v & ia3/mlp & ln_tuning/all"]


def rate_of_hira(rank: int, **choices) -> float:
    """The rate of the usual arm where all ranks are to be this one."""
    space = Space(about="mine", methods={"hira": MethodSpace(max_rank=rank, **choices)})
    (policy,) = usual(space, max_params=ROOMY * rank).values()
    return policy.learning_rate


@pytest.mark.parametrize("rank", [1, 2, 8])
def test_without_a_scale_the_rate_falls_with_the_square_root_of_the_rank(rank):
    low, high = METHODS["hira"].learning_rate_range
    assert rate_of_hira(rank) == pytest.approx(low * (high / low) ** 0.55 / rank**0.5)


@pytest.mark.parametrize("rank", [1, 8])
def test_a_range_of_rates_that_the_space_sets_is_for_all_ranks(rank):
    assert rate_of_hira(rank, learning_rate=(1e-3, 1e-1)) == pytest.approx(1e-3 * 100**0.55)

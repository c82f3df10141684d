"""The contract of a PEFT method in use: each variant attached, trained, saved, merged and loaded on toys."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from toys.bases import EVERY_ARCHITECTURE, toy_base
from toys.lives import live, start_of

from autopeft.adapters import compile_plan
from autopeft.plugins import discover

METHODS = discover("autopeft.methods")
BY_DAY = ("bert", "t5", "llama-lm", "moe-lm")


@cache
def targets_of(architecture):
    return toy_base(architecture).targets


def variants(method):
    """Settings with the larger of two ranks, each option in turn; and those with the smaller rank."""
    sizes = [{"rank": 4}, {"rank": 1}] if method.ranked else [{"rank": 0}]
    chosen = [{option: value} for option, values in method.choices.items() for value in values[1:]]
    larger = [sizes[0], *({**sizes[0], **choice} for choice in chosen if "scale_rule" not in choice)]
    return larger, sizes[1:]


def cases():
    """Architecture, method and settings wherever the method fits: of larger ranks, and of the smallest.

    By day every method is tried on four architectures, and each of its options on the first of them.
    """
    larger, smallest = [], []
    for name, method in METHODS.items():
        fitting = [
            a for a in EVERY_ARCHITECTURE if any(method.refusal(target) is None for target in targets_of(a))
        ]
        by_day = [a for a in fitting if a in BY_DAY] or fitting[:1]
        for architecture in fitting:
            for into, settings_of_size in zip((larger, smallest), variants(method), strict=True):
                for place, settings in enumerate(settings_of_size):
                    is_daily = architecture in (by_day if place == 0 else by_day[:1])
                    words = [architecture, name, *(f"{key}={value}" for key, value in settings.items())]
                    marks = () if is_daily else pytest.mark.nightly
                    case = pytest.param((architecture, name, settings), id="-".join(words), marks=marks)
                    into.append(case)
    return larger, smallest


LARGER, SMALLEST = cases()


@pytest.fixture(scope="module")
def base_of(make_base):
    """A function: architecture -> base model, the same at each call; a life checks that it is left alone."""
    return cache(make_base)


@pytest.fixture(scope="module")
def start(request, base_of, make_plan, attach, batch_for):
    """What was seen of a variant, attached at every target module that it fits and not trained."""
    architecture, name, settings = request.param
    base = base_of(architecture)
    return start_of(base, make_plan(base, name, **settings), batch_for(base), attach=attach)


@pytest.fixture(scope="module")
def life(request, base_of, make_plan, attach, batch_for, tmp_path_factory):
    """What was seen of a variant that was trained, saved, merged and loaded, at every target that it fits."""
    architecture, name, settings = request.param
    base = base_of(architecture)
    plan = make_plan(base, name, **settings)
    return live(
        base,
        toy_base(architecture),
        plan,
        batch=batch_for(base),
        attach=attach,
        names=compile_plan(plan, METHODS).names,
        folder=tmp_path_factory.mktemp("weights"),
    )


def assert_counts_agree(life):
    assert set(life.n_trainable.values()) == {life.plan.trainable_params}
    assert life.plan.trainable_params > 0


def assert_starts_as_the_identity(life):
    assert life.movement_at_start < 1e-5


larger_variants = pytest.mark.parametrize("life", LARGER, indirect=True)


@pytest.mark.parametrize("start", SMALLEST, indirect=True)
def test_smallest_rank_has_its_cost_and_starts_as_the_identity(start):
    assert_counts_agree(start)
    assert_starts_as_the_identity(start)


@larger_variants
def test_cost_is_what_peft_attaches_and_what_requires_a_gradient(life):
    assert_counts_agree(life)


@larger_variants
def test_adapters_start_as_the_identity(life):
    assert_starts_as_the_identity(life)


@larger_variants
def test_every_trained_tensor_gets_a_gradient_within_two_steps(life):
    assert life.largest_gradients
    # 1e-9 is rounding noise.
    assert {name: g for name, g in life.largest_gradients.items() if not g > 1e-6} == {}


@larger_variants
def test_base_model_is_as_it_was_after_training_and_after_an_error(life):
    assert life.is_left_alone == [True, True]


@larger_variants
def test_saved_weights_load_exactly_here_and_with_plain_peft(life):
    assert not torch.equal(life.untrained, life.trained)
    assert torch.equal(life.loaded, life.trained)
    if life.loaded_by_peft is not None:
        # DoRA's norms are rounded otherwise on some processors, depending on how a weight lies in memory.
        torch.testing.assert_close(life.loaded_by_peft, life.trained, rtol=0, atol=2e-6)


@larger_variants
def test_weights_merge_within_rounding(life):
    torch.testing.assert_close(life.merged, life.trained, rtol=0, atol=1e-5)

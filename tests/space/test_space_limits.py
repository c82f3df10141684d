"""Limits beside the budget: what a space loses to them, and how a measured plan breaks them."""

from __future__ import annotations

from collections.abc import Mapping

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autopeft.errors import SpecError
from autopeft.extension import Method, discover
from autopeft.records import LimitSpec
from autopeft.space import MethodSpace, MixPart, Space, limited, load, violations

METHODS: Mapping[str, Method] = discover("autopeft.methods")
EVERYTHING = load("everything", known_methods=METHODS)
MIXED = Space(
    about="two mixes",
    methods={"lora": MethodSpace(size=(4, 16)), "bottleneck": MethodSpace()},
    mixes={
        "merging": (MixPart(method="lora", max_rank=64), MixPart(method="ia3")),
        "staying": (MixPart(method="lora"), MixPart(method="bottleneck")),
    },
)


def test_no_limit_changes_nothing() -> None:
    assert limited(MIXED, LimitSpec(), METHODS) == MIXED


def test_mergeable_leaves_methods_and_mixes_that_merge() -> None:
    assert limited(MIXED, LimitSpec(mergeable=True), METHODS).arms == ("lora", "merging")
    assert set(limited(EVERYTHING, LimitSpec(mergeable=True), METHODS).arms) == {
        name for name in METHODS if name not in ("bottleneck", "prompt_tuning", "prefix_tuning", "p_tuning")
    }


def test_a_step_time_drops_the_methods_that_declare_more() -> None:
    kept = limited(EVERYTHING, LimitSpec(max_step_time=1.0), METHODS).arms
    assert set(kept) == {name for name, method in METHODS.items() if method.step_time <= 1.0}
    assert "lora" in kept and "loha" not in kept


def test_a_largest_rank_caps_what_is_larger_and_drops_what_cannot_be_smaller() -> None:
    kept = limited(MIXED, LimitSpec(max_rank=8), METHODS)
    assert kept.methods["lora"].size == (4,)
    assert kept.methods["bottleneck"].max_rank is None  # a width is no rank of a matrix
    assert [part.max_rank for part in kept.mixes["merging"]] == [8, 8]
    assert "lora" not in limited(MIXED, LimitSpec(max_rank=3), METHODS).methods
    floored = Space(about="", methods={"lora": MethodSpace(min_rank=4), "ia3": MethodSpace()})
    assert limited(floored, LimitSpec(max_rank=3), METHODS).arms == ("ia3",)


def test_a_largest_rank_leaves_numbers_that_are_no_ranks_of_matrices() -> None:
    kept = limited(EVERYTHING, LimitSpec(max_rank=1), METHODS)
    assert kept.arms == EVERYTHING.arms
    counts = "fourierft oft c3a shira bottleneck prompt_tuning prefix_tuning p_tuning".split()
    assert all(kept.methods[name] == EVERYTHING.methods[name] for name in counts if name in kept.methods)
    matrices = ("lora", "loha", "lokr", "hira", "delora", "miss")
    assert {kept.methods[name].max_rank for name in matrices if name in kept.methods} == {1}


def test_limits_that_leave_nothing_are_refused_by_name() -> None:
    space = Space(about="", methods={"bottleneck": MethodSpace()})
    with pytest.raises(SpecError, match=r"limits mergeable True, max_rank 4; raise or drop one"):
        limited(space, LimitSpec(mergeable=True, max_rank=4), METHODS)


@given(st.integers(1, 10**12), st.integers(0, 10**12), st.floats(0.01, 10), st.floats(0.01, 10))
def test_a_violation_is_above_0_exactly_where_a_limit_is_broken(
    limit: int, used: int, allowed: float, taken: float
) -> None:
    limits = LimitSpec(max_peak_bytes=limit, max_adapter_bytes=limit, max_step_time=allowed)
    excess = violations(
        limits, peak_bytes=used, seconds_per_step=taken, lora_seconds_per_step=1.0, adapter_bytes=2 * limit
    )
    assert (excess["max_peak_bytes"] > 0) == (used > limit)
    assert (excess["max_step_time"] > 0) == (taken > allowed)
    assert excess["max_adapter_bytes"] == 1.0  # twice the limit is 100 % over


def test_a_limit_that_is_not_set_has_no_violation_and_optuna_takes_the_others() -> None:
    limits = LimitSpec(max_peak_bytes=100)
    excess = violations(
        limits, peak_bytes=120, seconds_per_step=9.0, lora_seconds_per_step=1.0, adapter_bytes=10**9
    )
    assert excess == {"max_peak_bytes": pytest.approx(0.2)}
    study = optuna.create_study()
    trial = study.ask()
    for name, value in excess.items():
        trial.set_constraint(name, value)
    study.tell(trial, 1.0)
    with pytest.raises(ValueError, match="feasible"):
        _ = study.best_trial

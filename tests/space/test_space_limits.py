"""Limits beside the budget: what a space loses to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from autopeft.errors import SpecError
from autopeft.extension import Method, discover
from autopeft.records import LimitSpec
from autopeft.space import MethodSpace, MixPart, Space, limited, load

# A method that does not merge, and whose rank is no rank of a matrix.
BESIDE = replace(discover("autopeft.methods")["lora"], name="beside", merges=False, low_rank=False)
METHODS: Mapping[str, Method] = {**discover("autopeft.methods"), "beside": BESIDE}
EVERYTHING = load("everything", known_methods=METHODS)
MIXED = Space(
    about="two mixes",
    methods={"lora": MethodSpace(max_rank=16), "beside": MethodSpace()},
    mixes={
        "merging": (MixPart(method="lora", max_rank=64), MixPart(method="ia3")),
        "staying": (MixPart(method="lora"), MixPart(method="beside")),
    },
)


def test_no_limit_changes_nothing() -> None:
    assert limited(MIXED, LimitSpec(), METHODS) == MIXED


def test_mergeable_leaves_methods_and_mixes_that_merge() -> None:
    assert limited(MIXED, LimitSpec(mergeable=True), METHODS).arms == ("lora", "merging")
    assert limited(EVERYTHING, LimitSpec(mergeable=True), METHODS) == EVERYTHING


def test_a_largest_rank_caps_what_is_larger() -> None:
    kept = limited(MIXED, LimitSpec(max_rank=8), METHODS)
    assert kept.methods["lora"].max_rank == 8
    assert kept.methods["beside"].max_rank is None  # a width is no rank of a matrix
    assert [part.max_rank for part in kept.mixes["merging"]] == [8, 8]


def test_a_largest_rank_leaves_numbers_that_are_no_ranks_of_matrices() -> None:
    kept = limited(EVERYTHING, LimitSpec(max_rank=1), METHODS)
    assert kept.arms == EVERYTHING.arms
    counts = "fourierft oft c3a shira".split()
    assert all(kept.methods[name] == EVERYTHING.methods[name] for name in counts if name in kept.methods)
    matrices = ("lora", "loha", "lokr", "hira", "delora", "miss")
    assert {kept.methods[name].max_rank for name in matrices if name in kept.methods} == {1}


def test_limits_that_leave_nothing_are_refused_by_name() -> None:
    space = Space(about="", methods={"beside": MethodSpace()})
    with pytest.raises(SpecError, match=r"limits mergeable True, max_rank 4; raise or drop one"):
        limited(space, LimitSpec(mergeable=True, max_rank=4), METHODS)

"""The arm of a proposal: when two are equal, and how stored ones are read."""

from __future__ import annotations

from autopeft.types import Arm


def test_the_usual_policy_and_the_sampled_one_are_one_arm():
    usual, sampled = (Arm(kind=kind, label="ia3/all") for kind in ("usual", "sampled"))
    assert usual == sampled and len({usual, sampled}) == 1
    assert usual != Arm(kind="usual", label="bitfit/all")

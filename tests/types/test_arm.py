"""The arm of a proposal: when two are equal, and how stored ones are read."""

from __future__ import annotations

from autopeft.types import Arm, Plan, Proposal, from_json, to_json

PROPOSAL = Proposal(
    trial=3,
    arm=Arm(kind="usual", label="lora/all"),
    source="list",
    plan=Plan(adapters=(), learning_rate=1e-3, trainable_params=0),
)


def test_the_usual_policy_and_the_sampled_one_are_one_arm():
    usual, sampled = (Arm(kind=kind, label="ia3/all") for kind in ("usual", "sampled"))
    assert usual == sampled and len({usual, sampled}) == 1
    assert usual != Arm(kind="usual", label="bitfit/all")


def test_a_proposal_comes_back_from_json_with_the_kind_of_its_arm():
    again = from_json(Proposal, to_json(PROPOSAL))
    assert (again, again.arm.kind) == (PROPOSAL, "usual")

"""Matched pairs: the proposals that used the score, and the same ones with a null in its place."""

from __future__ import annotations

from dataclasses import replace

import pytest
from toys.engine import METHODS, ROOMY, SCORES, SITES, baseline_plans, context, levels, method_of, run

from autopeft.engine.twins import MAX_PAIRS
from autopeft.records import Plan
from autopeft.space import MethodSpace, Policy, Space, plan_of

LORA = Policy(method="lora", exponent=1.0, learning_rate=1e-2)
PARAMETERS = {site.name: float(site.in_features * site.out_features) for site in SITES}


def ranks(plan: Plan) -> dict[str, int]:
    return {adapter.site: adapter.rank for adapter in plan.adapters}


def by_score(plan, fidelity):
    """A truth in which LoRA is better the more of its ranks lie where the score is high."""
    if method_of(plan) != "lora":
        return 0.2
    given = ranks(plan)
    return 0.3 + 0.3 * sum(SCORES[site] * rank for site, rank in given.items()) / (
        max(SCORES.values()) * sum(given.values())
    )


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"exponent": 0.0}, False),
        ({"exponent": 0.1}, False),
        ({"exponent": 1.0}, True),
        ({"exponent": 0.0, "layers_by": "score"}, False),
        ({"exponent": 0.0, "layers_by": "score", "layer_share": 0.5}, True),
        ({"exponent": 0.0, "beside": (Policy(method="ia3", exponent=2.0, learning_rate=1e-2),)}, True),
    ],
)
def test_a_policy_uses_the_score_where_ranks_or_layers_follow_it(change, expected) -> None:
    assert replace(LORA, **change).uses_score is expected


def test_the_greedy_plan_stands_beside_the_baseline_at_its_rate_and_beside_each_null() -> None:
    search = run(by_score, check_score=True)
    pair = search.outcome.score_pairs[0]
    assert pair.arm.startswith("greedy")
    policy = replace(LORA, learning_rate=pair.learning_rate)
    plans = {
        "with_score": plan_of(policy, context(ROOMY)),
        "uniform": plan_of(replace(policy, exponent=0.0), context(ROOMY)),
        "parameters": plan_of(policy, replace(context(ROOMY), scores=PARAMETERS)),
    }
    losses = {m.plan: m.loss for m in search.at("search", 3)}
    assert {name: getattr(pair, name) for name in plans} == {n: losses[p] for n, p in plans.items()}
    assert plans["uniform"] in baseline_plans()
    assert pair.with_score < pair.uniform  # the truth of this world


def test_twins_share_everything_but_their_ranks_and_are_not_promoted() -> None:
    search = run(by_score, check_score=True)
    twins = [proposal for proposal in search.outcome.proposals if proposal.source == "twin"]
    assert twins and len(search.outcome.score_pairs) <= MAX_PAIRS
    rates = {pair.learning_rate for pair in search.outcome.score_pairs}
    assert {proposal.plan.learning_rate for proposal in twins} <= rates
    promoted = {m.plan for m in search.at("search", 12)}
    assert not promoted & {proposal.plan for proposal in twins}
    for proposal in twins:
        assert proposal.plan.trainable_params <= ROOMY
        assert {METHODS[a.method].name for a in proposal.plan.adapters} == {method_of(proposal.plan)}


def test_a_search_without_scored_proposals_has_no_pairs() -> None:
    space = Space(about="even", methods={"ia3": MethodSpace(placement=("all", "q+v"))})
    assert run(levels(), space=space, check_score=True).outcome.score_pairs == ()


def test_a_search_that_is_not_asked_for_pairs_measures_none() -> None:
    outcome = run(by_score).outcome
    assert outcome.score_pairs == ()
    assert {proposal.source for proposal in outcome.proposals}.isdisjoint({"twin"})
    assert "greedy" not in {proposal.arm.kind for proposal in outcome.proposals}


def test_twins_are_left_out_where_time_is_short() -> None:
    ample = run(levels(), check_score=True)
    assert ample.outcome.score_pairs
    short = run(levels(), check_score=True, limit_seconds=200)
    n_twins = [sum(p.source == "twin" for p in search.outcome.proposals) for search in (ample, short)]
    assert n_twins[1] <= n_twins[0]
    assert len(short.outcome.confirmations) >= 2

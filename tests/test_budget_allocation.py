"""The allocator: ranks within a budget, against closed forms and a rule worked out by hand."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from autopeft.budget import Claim, allocate, at_one_rank, natural_key


def claim(target: str, *, per_rank: int = 10, offset: int = 0, max_rank: int = 8) -> Claim:
    """A LoRA-like claim; `offset` is what the first rank costs on top, as DoRA's magnitude does."""
    ranks = range(1, max_rank + 1)
    return Claim(target=target, ranks=ranks, cost=lambda rank: offset + per_rank * rank)


def doubling(target_claim: Claim) -> Claim:
    """The same with ranks 2, 4, 8, … only, as methods have whose config holds one rank."""
    return replace(
        target_claim, ranks=[rank for rank in target_claim.ranks if rank > 1 and rank & (rank - 1) == 0]
    )


def spent(claims: Sequence[Claim], ranks: Mapping[str, int]) -> int:
    return sum(each.cost(ranks[each.target]) for each in claims if each.target in ranks)


@st.composite
def claim_lists(draw: st.DrawFn) -> list[Claim]:
    """Claims with any prices, offsets, caps and floors; ties included."""
    numbers = st.tuples(st.integers(1, 60), st.integers(0, 80), st.integers(0, 9))
    claims = []
    for i, (price, offset, cap) in enumerate(draw(st.lists(numbers, max_size=7))):
        target_claim = claim(f"h.{i}.q", per_rank=price, offset=offset, max_rank=cap)
        kind = draw(st.sampled_from(["every rank", "doublings", "a floor"]))
        if kind == "doublings":
            target_claim = doubling(target_claim)
        elif kind == "a floor":
            target_claim = replace(target_claim, ranks=target_claim.ranks[2:])
        claims.append(target_claim)
    return claims


@given(claim_lists(), st.integers(0, 3000))
def test_the_budget_is_kept_and_no_upgrade_is_affordable(claims: list[Claim], budget: int) -> None:
    ranks = allocate(claims, max_params=budget)
    left = budget - spent(claims, ranks)
    assert left >= 0
    for target_claim in claims:
        rank = ranks.get(target_claim.target, 0)
        assert rank == 0 or rank in target_claim.ranks
        larger = [other for other in target_claim.ranks if other > rank]
        assert not larger or target_claim.cost(larger[0]) - (target_claim.cost(rank) if rank else 0) > left


@given(claim_lists(), st.integers(0, 2000), st.integers(0, 500))
def test_the_cost_of_the_ranks_never_falls_when_the_budget_rises(
    claims: list[Claim], budget: int, more: int
) -> None:
    poor, rich = (allocate(claims, max_params=amount) for amount in (budget, budget + more))
    assert spent(claims, poor) <= spent(claims, rich)


@given(claim_lists(), st.integers(0, 2000), st.randoms(use_true_random=False))
def test_input_order_changes_nothing(claims: list[Claim], budget: int, chance: random.Random) -> None:
    shuffled = chance.sample(claims, len(claims))
    assert list(allocate(shuffled, max_params=budget).items()) == list(
        allocate(claims, max_params=budget).items()
    )


def by_hand(claims: Sequence[Claim], budget: int) -> dict[str, int]:
    """The rule in exact numbers: as long as a next rank is affordable, give the best one."""
    ranks: dict[str, int] = {}
    closed: set[str] = set()

    def following(target_claim: Claim) -> tuple[Fraction, int, int, object] | None:
        larger = [rank for rank in target_claim.ranks if rank > ranks.get(target_claim.target, 0)]
        if not larger or target_claim.target in closed:
            return None
        before = ranks.get(target_claim.target, 0)
        price = target_claim.cost(larger[0]) - (target_claim.cost(before) if before else 0)
        return (
            Fraction(target_claim.ranks[0], larger[0]),
            -larger[0],
            -price,
            natural_key(target_claim.target),
        )

    while True:
        open_now = [
            (order, target_claim) for target_claim in claims if (order := following(target_claim)) is not None
        ]
        if not open_now:
            return ranks
        (_, rank, price, _), target_claim = max(open_now, key=lambda entry: entry[0])
        if spent(claims, ranks) - price > budget:
            closed.add(target_claim.target)
        else:
            ranks[target_claim.target] = -rank


@given(claim_lists(), st.integers(0, 2000))
def test_ranks_are_those_of_the_rule_worked_out_by_hand(claims: list[Claim], budget: int) -> None:
    assert allocate(claims, max_params=budget) == by_hand(claims, budget)


@given(claim_lists(), st.integers(0, 3000), st.booleans())
def test_one_rank_is_the_largest_that_the_budget_covers_at_all_targets(
    drawn: list[Claim], budget: int, may_differ: bool
) -> None:
    claims = [target_claim for target_claim in drawn if target_claim.ranks and target_claim.ranks[0] == 1]

    def cost(rank: int) -> int:  # a target module that ends below has its last rank
        return sum(c.cost(min(rank, c.ranks[-1])) for c in claims)

    limited = at_one_rank(claims, max_params=budget, may_differ=may_differ)
    granted = allocate(limited, max_params=budget)
    tops = [target_claim.ranks[-1] for target_claim in claims]
    highest = (max if may_differ else min)(tops, default=0)
    reached = max((rank for rank in range(1, highest + 1) if cost(rank) <= budget), default=0)
    if may_differ and reached < min(8, highest):
        assert limited == claims
    elif reached:
        assert granted == {c.target: min(reached, c.ranks[-1]) for c in claims}
    else:
        assert set(granted.values()) <= {1}
    assert spent(claims, granted) <= budget


def test_one_rank_is_taken_unless_the_next_is_more_than_an_eighth_larger() -> None:
    claims = [claim("a", max_rank=99), claim("b", max_rank=99)]
    limited = at_one_rank(claims, max_params=170, may_differ=True)
    assert allocate(limited, max_params=170) == {"a": 8, "b": 8}
    assert at_one_rank(claims, max_params=150, may_differ=True) == claims  # from 7 to 8


def test_targets_that_share_no_rank_with_most_are_left_out_and_the_others_come_first() -> None:
    thirds = [replace(claim(name), ranks=(3, 9)) for name in "ab"]
    twos = [replace(claim(name), ranks=(2, 4, 8)) for name in "cde"]
    fixed = at_one_rank([*thirds, *twos], max_params=130, may_differ=False)
    other = claim("f", max_rank=99)
    assert allocate([*fixed, other], max_params=160) == {"c": 4, "d": 4, "e": 4, "f": 4}
    poor = at_one_rank([*thirds, *twos], max_params=50, may_differ=False)
    assert allocate(poor, max_params=50) == {"d": 2, "e": 2}


def test_targets_come_back_in_natural_order() -> None:
    names = [f"h.{i}.q" for i in range(12)]
    assert list(allocate([claim(name) for name in names[::-1]], max_params=10**4)) == names

"""The allocator: ranks within a budget, against closed forms and a rule worked out by hand."""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autopeft.budget import Claim, allocate, at_one_rank, natural_key


def claim(
    target: str, *, weight: float = 1.0, per_rank: int = 10, offset: int = 0, max_rank: int = 8
) -> Claim:
    """A LoRA-like claim; `offset` is what the first rank costs on top, as DoRA's magnitude does."""
    ranks = range(1, max_rank + 1)
    return Claim(target=target, weight=weight, ranks=ranks, cost=lambda rank: offset + per_rank * rank)


def doubling(target_claim: Claim) -> Claim:
    """The same with ranks 2, 4, 8, … only, as methods have whose config holds one rank."""
    return replace(
        target_claim, ranks=[rank for rank in target_claim.ranks if rank > 1 and rank & (rank - 1) == 0]
    )


def spent(claims: Sequence[Claim], ranks: Mapping[str, int]) -> int:
    return sum(
        target_claim.cost(ranks[target_claim.target])
        for target_claim in claims
        if target_claim.target in ranks
    )


@st.composite
def claim_lists(draw: st.DrawFn, max_size: int = 7, max_rank: int = 9) -> list[Claim]:
    """Claims with any weights, prices, offsets, caps and floors; zero weights and ties included."""
    numbers = st.tuples(
        st.one_of(st.sampled_from([0.0, 1.0, 2.0]), st.floats(0, 1e6)),
        st.integers(1, 60),
        st.integers(0, 80),
        st.integers(0, 9),
    )
    claims = []
    for i, (weight, price, offset, cap) in enumerate(draw(st.lists(numbers, max_size=max_size))):
        target_claim = claim(
            f"h.{i}.q", weight=weight, per_rank=price, offset=offset, max_rank=min(cap, max_rank)
        )
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

    def following(target_claim: Claim) -> tuple[Fraction, int, int, tuple[object, ...]] | None:
        larger = [rank for rank in target_claim.ranks if rank > ranks.get(target_claim.target, 0)]
        if not larger or target_claim.target in closed:
            return None
        before = ranks.get(target_claim.target, 0)
        price = target_claim.cost(larger[0]) - (target_claim.cost(before) if before else 0)
        deserved = Fraction(target_claim.weight) * target_claim.ranks[0] / larger[0]
        return deserved, -larger[0], -price, natural_key(target_claim.target)

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


@given(
    st.lists(
        st.tuples(st.integers(0, 8), st.integers(1, 60), st.integers(0, 80), st.integers(0, 9)), max_size=6
    ),
    st.booleans(),
    st.integers(0, 2000),
)
def test_ranks_are_those_of_the_rule_worked_out_by_hand(
    numbers: list[tuple[int, int, int, int]], is_sparse: bool, budget: int
) -> None:
    # Weights are powers of two, so that quotients of equal size are equal in floating point as well.
    claims = [
        claim(f"h.{i}", weight=2.0**power, per_rank=price, offset=offset, max_rank=cap)
        for i, (power, price, offset, cap) in enumerate(numbers)
    ]
    claims = [doubling(target_claim) for target_claim in claims] if is_sparse else claims
    assert allocate(claims, max_params=budget) == by_hand(claims, budget)


def every_allocation(claims: Sequence[Claim], budget: int) -> list[tuple[int, ...]]:
    """All affordable ranks, 0 where a target module has none."""
    affordable = []
    for ranks in itertools.product(*[(0, *target_claim.ranks) for target_claim in claims]):
        cost = sum(target_claim.cost(rank) for target_claim, rank in zip(claims, ranks, strict=True) if rank)
        affordable += [ranks] if cost <= budget else []
    return affordable


@given(claim_lists(max_size=4, max_rank=4), st.integers(0, 400))
def test_no_affordable_ranks_are_as_large_everywhere_and_larger_somewhere(
    claims: list[Claim], budget: int
) -> None:
    granted = allocate(claims, max_params=budget)
    chosen = tuple(granted.get(claim.target, 0) for claim in claims)
    affordable = every_allocation(claims, budget)
    assert chosen in affordable
    above = [ranks for ranks in affordable if all(a >= b for a, b in zip(ranks, chosen, strict=True))]
    assert above == [chosen]


@given(st.lists(st.integers(1, 6), min_size=1, max_size=4), st.integers(0, 9))
def test_the_target_best_served_for_its_weight_is_served_as_little_as_can_be(
    weights: list[int], n_ranks: int
) -> None:
    # D'Hondt's property: of all ways to give so many ranks it has the smallest largest rank / weight.
    claims = [claim(f"h.{i}", weight=float(w), max_rank=9) for i, w in enumerate(weights)]
    granted = allocate(claims, max_params=10 * n_ranks)
    ways = [
        ranks for ranks in itertools.product(range(n_ranks + 1), repeat=len(weights)) if sum(ranks) == n_ranks
    ]
    best = min(max(Fraction(r, w) for r, w in zip(ranks, weights, strict=True)) for ranks in ways)
    assert sum(granted.values()) == n_ranks
    assert max(Fraction(granted.get(f"h.{i}", 0), w) for i, w in enumerate(weights)) == best


@given(st.integers(1, 9), st.integers(0, 1500))
def test_equal_claims_get_ranks_that_differ_by_one_at_most(n_targets: int, budget: int) -> None:
    targets = [f"h.{i}" for i in range(n_targets)]
    ranks = allocate([claim(target, max_rank=99) for target in targets], max_params=budget)
    spread = [ranks.get(target, 0) for target in targets]
    assert max(spread) - min(spread) <= 1
    assert sum(spread) == min(budget // 10, 99 * n_targets)


@given(st.lists(st.integers(1, 20), min_size=2, max_size=6))
def test_ranks_are_proportional_to_the_weights(weights: list[int]) -> None:
    # D'Hondt: a house of a multiple of the summed votes gives each party that multiple of its votes.
    claims = [claim(f"h.{i}", weight=float(w), max_rank=10**6) for i, w in enumerate(weights)]
    ranks = allocate(claims, max_params=10 * 7 * sum(weights))
    assert list(ranks.values()) == [7 * w for w in weights]


def test_sparse_ranks_grow_in_proportion_and_in_units_of_the_smallest() -> None:
    claims = [doubling(claim("a", weight=4.0, max_rank=64)), doubling(claim("b", max_rank=64))]
    assert allocate(claims, max_params=10 * (8 + 2)) == {"a": 8, "b": 2}
    mixed = [doubling(claim("a", max_rank=64)), claim("b", max_rank=64)]  # 2 counts as the first unit of a
    assert allocate(mixed, max_params=10 * (8 + 4)) == {"a": 8, "b": 4}


@pytest.mark.parametrize(("weights", "ranks"), [((1.0, 1.0), {"h.10": 1}), ((2.0, 1.0), {"h.9": 1})])
def test_a_tie_goes_to_the_later_layer(weights: tuple[float, float], ranks: dict[str, int]) -> None:
    claims = [claim("h.9", weight=weights[0]), claim("h.10", weight=weights[1])]
    assert allocate(claims, max_params=10) == ranks


@given(claim_lists(max_size=5), st.integers(0, 3000), st.booleans())
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
    claims = [claim("a", weight=9.0, max_rank=99), claim("b", max_rank=99)]
    limited = at_one_rank(claims, max_params=170, may_differ=True)
    assert allocate(limited, max_params=170) == {"a": 8, "b": 8}
    assert at_one_rank(claims, max_params=150, may_differ=True) == claims  # from 7 to 8


def test_targets_that_share_no_rank_with_most_are_left_out_and_the_others_come_first() -> None:
    thirds = [replace(claim(name, weight=0.1), ranks=(3, 9)) for name in "ab"]
    twos = [replace(claim(name, weight=0.1), ranks=(2, 4, 8)) for name in "cde"]
    fixed = at_one_rank([*thirds, *twos], max_params=130, may_differ=False)
    other = claim("f", weight=100.0, max_rank=99)
    assert allocate([*fixed, other], max_params=160) == {"c": 4, "d": 4, "e": 4, "f": 4}
    poor = at_one_rank([*thirds, *twos], max_params=50, may_differ=False)
    assert allocate(poor, max_params=50) == {"d": 2, "e": 2}


def test_targets_come_back_in_natural_order() -> None:
    names = [f"h.{i}.q" for i in range(12)]
    assert list(allocate([claim(name) for name in names[::-1]], max_params=10**4)) == names

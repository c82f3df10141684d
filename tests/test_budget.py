from __future__ import annotations

import itertools
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autopeft.budget import Claim, allocate, natural_key, parse, require_affordable
from autopeft.errors import BudgetError, SpecError
from autopeft.records import Budget

BASE_PARAMS = 22_713_216  # all-MiniLM-L6-v2
quickly = settings(max_examples=60, deadline=None)


def claim(site: str, *, weight: float = 1.0, per_rank: int = 10, offset: int = 0, max_rank: int = 8) -> Claim:
    """A LoRA-like claim; `offset` is what the first rank costs on top, as DoRA's magnitude does."""
    ranks = range(1, max_rank + 1)
    return Claim(site=site, weight=weight, ranks=ranks, cost=lambda rank: offset + per_rank * rank)


def doubling(own: Claim) -> Claim:
    """The same with ranks 2, 4, 8, … only, as methods have whose config holds one rank."""
    return replace(own, ranks=[rank for rank in own.ranks if rank > 1 and rank & (rank - 1) == 0])


def spent(claims: Sequence[Claim], ranks: Mapping[str, int]) -> int:
    return sum(own.cost(ranks[own.site]) for own in claims if own.site in ranks)


@st.composite
def claim_lists(draw: st.DrawFn, max_size: int = 7, max_rank: int = 9) -> list[Claim]:
    """Claims with any weights, prices, offsets, caps and floors; zero weights, ties and gains included."""
    numbers = st.tuples(
        st.one_of(st.sampled_from([0.0, 1.0, 2.0]), st.floats(0, 1e6)),
        st.integers(1, 60),
        st.integers(0, 80),
        st.integers(0, 9),
    )
    found = []
    for i, (weight, price, offset, cap) in enumerate(draw(st.lists(numbers, max_size=max_size))):
        own = claim(f"h.{i}.q", weight=weight, per_rank=price, offset=offset, max_rank=min(cap, max_rank))
        kind = draw(st.sampled_from(["every rank", "doublings", "a floor", "gains"]))
        if kind == "doublings":
            own = doubling(own)
        elif kind == "a floor":
            own = replace(own, ranks=own.ranks[2:])
        elif kind == "gains":
            gains = draw(st.lists(st.floats(0, 100), max_size=5))
            own = replace(own, gains=sorted(gains, reverse=True))
        found.append(own)
    return found


# Parsing.


@quickly
@given(st.decimals(min_value="0.00001", max_value=100, places=5), st.integers(10**7, 10**10))
def test_a_share_is_the_floor_of_the_exact_share(percent: object, base_params: int) -> None:
    exact = Fraction(str(percent)) * base_params / 100
    found = parse(f"{percent}%", base_params=base_params).max_trainable_params
    assert found == exact.numerator // exact.denominator


@quickly
@given(st.decimals(min_value="1", max_value=999, places=4), st.sampled_from(" kKmMbB"))
def test_a_number_is_the_floor_of_number_times_unit(number: object, unit: str) -> None:
    exact = Fraction(str(number)) * {" ": 1, "k": 10**3, "m": 10**6, "b": 10**9}[unit.lower()]
    found = parse(f"{number}{unit}", base_params=10**12).max_trainable_params
    assert found <= exact < found + 1


@pytest.mark.parametrize(
    ("requested", "params"),
    [
        ("0.5%", 113_566),  # 22,713,216 / 200 = 113,566.08
        ("100%", BASE_PARAMS),
        (".5 %", 113_566),
        ("1,234,567", 1_234_567),
        ("1_234_567", 1_234_567),
        ("1,200.5k", 1_200_500),
        (" 300 k ", 300_000),
        ("007", 7),
        ("22713216", BASE_PARAMS),
    ],
)
def test_every_written_form_is_read(requested: str, params: int) -> None:
    budget = parse(requested, base_params=BASE_PARAMS)
    assert (budget.max_trainable_params, budget.requested) == (params, requested.strip())


@pytest.mark.parametrize(
    "requested",
    [
        "",
        " ",
        "abc",
        "-5",
        "+5",
        "0.5 %%",
        "1e5",
        "nan",
        "inf",
        "5 %k",
        "0x10",
        "5T",
        "1.2.3",
        "%",
        "k",
        "٣%",
    ],
)
def test_what_is_no_amount_is_refused_with_the_allowed_forms(requested: str) -> None:
    with pytest.raises(
        SpecError, match=r"cannot be read; write .* 0\.5%, or a number such as 300k"
    ) as caught:
        parse(requested, base_params=BASE_PARAMS)
    assert repr(requested) in str(caught.value)


@pytest.mark.parametrize("requested", ["0,5%", "1,2M", "1,", "1__000", "1,0000", "0,500k", "1,234_567"])
def test_a_comma_that_parts_no_thousands_is_not_read_over(requested: str) -> None:
    with pytest.raises(SpecError, match="cannot be read"):
        parse(requested, base_params=BASE_PARAMS)


@pytest.mark.parametrize(
    ("requested", "complaint"),
    [
        ("0", "zero; write"),
        ("0%", "zero; write"),
        ("0.000k", "zero; write"),
        ("101%", r"more than the whole base model \(22,713,216 parameters\)"),
        ("22713217", "more than the whole base model .* ask for less"),
        ("1B", "more than the whole base model"),
        ("0.0000001%", "less than one parameter of 22,713,216; ask for more"),
        ("0.5", "less than one parameter"),
    ],
)
def test_an_absurd_amount_is_refused_with_its_value(requested: str, complaint: str) -> None:
    with pytest.raises(SpecError, match=f"The budget '{requested}' is {complaint}"):
        parse(requested, base_params=BASE_PARAMS)


# The allocator.


@quickly
@given(claim_lists(), st.integers(0, 3000))
def test_the_budget_is_kept_and_no_upgrade_is_affordable(claims: list[Claim], budget: int) -> None:
    ranks = allocate(claims, max_params=budget)
    left = budget - spent(claims, ranks)
    assert left >= 0
    for own in claims:
        rank = ranks.get(own.site, 0)
        assert rank == 0 or rank in own.ranks
        larger = [other for other in own.ranks if other > rank]
        assert not larger or own.cost(larger[0]) - (own.cost(rank) if rank else 0) > left


@quickly
@given(claim_lists(), st.integers(0, 2000), st.integers(0, 500))
def test_what_is_spent_never_falls_when_the_budget_rises(claims: list[Claim], budget: int, more: int) -> None:
    poor, rich = (allocate(claims, max_params=own) for own in (budget, budget + more))
    assert spent(claims, poor) <= spent(claims, rich)


@quickly
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

    def following(own: Claim) -> tuple[Fraction, int, int, tuple[object, ...]] | None:
        larger = [rank for rank in own.ranks if rank > ranks.get(own.site, 0)]
        if not larger or own.site in closed:
            return None
        before = ranks.get(own.site, 0)
        price = own.cost(larger[0]) - (own.cost(before) if before else 0)
        if own.gains is None:
            deserved = Fraction(own.weight) * own.ranks[0] / larger[0]
        else:
            deserved = sum(map(Fraction, own.gains[before : larger[0]]), Fraction(0)) / price
        return deserved, -larger[0], -price, natural_key(own.site)

    while True:
        open_now = [(order, own) for own in claims if (order := following(own)) is not None]
        if not open_now:
            return ranks
        (_, rank, price, _), own = max(open_now, key=lambda entry: entry[0])
        if spent(claims, ranks) - price > budget:
            closed.add(own.site)
        else:
            ranks[own.site] = -rank


@quickly
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
    claims = [doubling(own) for own in claims] if is_sparse else claims
    assert allocate(claims, max_params=budget) == by_hand(claims, budget)


def every_allocation(claims: Sequence[Claim], budget: int) -> list[tuple[int, ...]]:
    """All affordable ranks, 0 where a site has none."""
    found = []
    for ranks in itertools.product(*[(0, *own.ranks) for own in claims]):
        cost = sum(own.cost(rank) for own, rank in zip(claims, ranks, strict=True) if rank)
        found += [ranks] if cost <= budget else []
    return found


@quickly
@given(claim_lists(max_size=4, max_rank=4), st.integers(0, 400))
def test_no_affordable_ranks_are_as_large_everywhere_and_larger_somewhere(
    claims: list[Claim], budget: int
) -> None:
    granted = allocate(claims, max_params=budget)
    own = tuple(granted.get(claim.site, 0) for claim in claims)
    affordable = every_allocation(claims, budget)
    assert own in affordable
    above = [ranks for ranks in affordable if all(a >= b for a, b in zip(ranks, own, strict=True))]
    assert above == [own]


@quickly
@given(st.lists(st.integers(1, 6), min_size=1, max_size=4), st.integers(0, 9))
def test_the_site_best_served_for_its_weight_is_served_as_little_as_can_be(
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


@quickly
@given(claim_lists(), st.integers(0, 2000))
def test_the_same_claims_give_the_same_ranks(claims: list[Claim], budget: int) -> None:
    assert allocate(iter(claims), max_params=budget) == allocate(claims, max_params=budget)


@quickly
@given(st.integers(1, 9), st.integers(0, 1500))
def test_equal_claims_get_ranks_that_differ_by_one_at_most(n_sites: int, budget: int) -> None:
    sites = [f"h.{i}" for i in range(n_sites)]
    ranks = allocate([claim(site, max_rank=99) for site in sites], max_params=budget)
    spread = [ranks.get(site, 0) for site in sites]
    assert max(spread) - min(spread) <= 1
    assert sum(spread) == min(budget // 10, 99 * n_sites)


@quickly
@given(st.lists(st.integers(1, 20), min_size=2, max_size=6))
def test_ranks_are_proportional_to_the_weights(weights: list[int]) -> None:
    # D'Hondt: a house of a multiple of the summed votes gives each party that multiple of its votes.
    claims = [claim(f"h.{i}", weight=float(w), max_rank=10**6) for i, w in enumerate(weights)]
    ranks = allocate(claims, max_params=10 * 7 * sum(weights))
    assert list(ranks.values()) == [7 * w for w in weights]


def test_a_capped_site_leaves_its_share_to_the_others() -> None:
    claims = [claim("a", weight=100.0, max_rank=2), claim("b", max_rank=9), claim("c", max_rank=9)]
    assert allocate(claims, max_params=100) == {"a": 2, "b": 4, "c": 4}


def test_sparse_ranks_grow_in_proportion_and_in_units_of_the_smallest() -> None:
    claims = [doubling(claim("a", weight=4.0, max_rank=64)), doubling(claim("b", max_rank=64))]
    assert allocate(claims, max_params=10 * (8 + 2)) == {"a": 8, "b": 2}
    mixed = [doubling(claim("a", max_rank=64)), claim("b", max_rank=64)]  # 2 counts as the first unit of a
    assert allocate(mixed, max_params=10 * (8 + 4)) == {"a": 8, "b": 4}


@quickly
@given(
    st.lists(st.lists(st.floats(0, 100), min_size=1, max_size=5), min_size=1, max_size=4),
    st.integers(1, 9),
    st.integers(0, 60),
)
def test_gains_are_spent_where_a_parameter_gains_most(
    spectra: list[list[float]], price: int, budget: int
) -> None:
    claims = [
        replace(claim(f"h.{i}", per_rank=price, max_rank=len(own)), gains=sorted(own, reverse=True))
        for i, own in enumerate(spectra)
    ]
    ranks = allocate(claims, max_params=budget)
    gained = math.fsum(math.fsum(own.gains[: ranks.get(own.site, 0)]) for own in claims if own.gains)
    # Brute force: with one price for all ranks, the best that so many ranks can gain are the largest gains.
    every = sorted((gain for own in spectra for gain in own), reverse=True)
    assert gained == pytest.approx(math.fsum(every[: budget // price]))


def test_gains_count_per_parameter_and_end_with_the_spectrum() -> None:
    dear = replace(claim("dear", per_rank=20), gains=[3.0, 3.0])
    cheap = replace(claim("cheap", per_rank=10), gains=[2.0, 1.0])
    assert allocate([dear, cheap], max_params=10) == {"cheap": 1}  # 0.2 a parameter, before 0.15 and 0.1
    assert allocate([dear, cheap], max_params=50) == {"cheap": 1, "dear": 2}
    assert allocate([dear, cheap], max_params=80) == {"cheap": 4, "dear": 2}  # beyond it, the cheaper first


def test_zero_weights_are_served_last_and_evenly() -> None:
    claims = [claim("a", weight=0.0), claim("b", weight=0.0), claim("c", weight=1e-9)]
    assert allocate(claims, max_params=80) == {"c": 8}
    assert allocate(claims, max_params=120) == {"a": 2, "b": 2, "c": 8}


def test_the_jump_of_a_first_rank_is_paid_once() -> None:
    # As DoRA: 30 + 10 r. Two sites at rank 1 cost 80; a third rank fits into 95, a third site does not.
    claims = [claim(name, offset=30) for name in "abc"]
    assert allocate(claims, max_params=95) == {"b": 1, "c": 2}
    assert allocate(claims, max_params=39) == {}


def test_a_dear_site_does_not_keep_cheap_ones_from_being_served() -> None:
    claims = [claim("dear", weight=9.0, per_rank=1000), claim("cheap", weight=1.0)]
    assert allocate(claims, max_params=999) == {"cheap": 8}


@pytest.mark.parametrize(("weights", "ranks"), [((1.0, 1.0), {"h.10": 1}), ((2.0, 1.0), {"h.9": 1})])
def test_a_tie_goes_to_the_later_layer(weights: tuple[float, float], ranks: dict[str, int]) -> None:
    claims = [claim("h.9", weight=weights[0]), claim("h.10", weight=weights[1])]
    assert allocate(claims, max_params=10) == ranks


def test_sites_come_back_in_natural_order() -> None:
    names = [f"h.{i}.q" for i in range(12)]
    assert list(allocate([claim(name) for name in names[::-1]], max_params=10**4)) == names


# Refusal.


def test_an_impossible_budget_names_the_cheapest_plan() -> None:
    budget = Budget(max_trainable_params=300, base_params=BASE_PARAMS, requested="300")
    expected = r"'300' allows 300 .* \(ia3 at one site\) needs 384\. Raise --budget"
    with pytest.raises(BudgetError, match=expected):
        require_affordable({"lora": 768, "ia3": 384, "zeta": 384}, budget=budget, available=300)


def test_what_the_head_takes_of_the_budget_is_told() -> None:
    budget = Budget(max_trainable_params=3000, base_params=BASE_PARAMS, requested="3k")
    with pytest.raises(BudgetError, match=r"allows 3,000 trainable parameters, of which 0 for adapters"):
        require_affordable({"ia3": 384}, budget=budget, available=-70)


@pytest.mark.parametrize("available", [384, 385])
def test_a_budget_that_one_method_fits_is_accepted(available: int) -> None:
    budget = Budget(max_trainable_params=9000, base_params=BASE_PARAMS, requested="9k")
    require_affordable({"lora": 10_000, "ia3": 384}, budget=budget, available=available)


# Natural order.


def test_numbers_in_names_sort_by_value() -> None:
    names = ["h.0.mlp.w2", "h.0.mlp.w10", "h.2.q", "h.10.q", "pooler"]
    assert sorted(names, key=natural_key) == names


def test_only_decimal_digits_count_as_a_number() -> None:
    assert natural_key("1²") == ((1, ""), (-1, "²"))

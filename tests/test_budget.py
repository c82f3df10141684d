"""Budgets as users write them, budgets that no plan fits, and the natural order of names."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autopeft.budget import natural_key, parse, rank_for, require_feasible
from autopeft.errors import BudgetError, SpecError
from autopeft.types import Budget

BASE_PARAMS = 22_713_216  # all-MiniLM-L6-v2


@given(st.decimals(min_value="0.00001", max_value=100, places=5), st.integers(10**7, 10**10))
def test_a_share_is_the_floor_of_the_exact_share(percent: object, base_params: int) -> None:
    exact = Fraction(str(percent)) * base_params / 100
    parsed = parse(f"{percent}%", base_params=base_params).max_trainable_params
    assert parsed == exact.numerator // exact.denominator


@given(st.decimals(min_value="1", max_value=999, places=4), st.sampled_from(" kKmMbB"))
def test_a_number_is_the_floor_of_number_times_unit(number: object, unit: str) -> None:
    exact = Fraction(str(number)) * {" ": 1, "k": 10**3, "m": 10**6, "b": 10**9}[unit.lower()]
    parsed = parse(f"{number}{unit}", base_params=10**12).max_trainable_params
    assert parsed <= exact < parsed + 1


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
        ("22713216", BASE_PARAMS),
    ],
)
def test_every_written_form_is_read(requested: str, params: int) -> None:
    budget = parse(requested, base_params=BASE_PARAMS)
    assert (budget.max_trainable_params, budget.requested) == (params, requested.strip())


@pytest.mark.parametrize("requested", ["", "abc", "-5", "nan", "0x10", "5T", "1.2.3", "1,", "0,5%", "1e5"])
def test_a_text_that_is_not_an_amount_is_refused(requested: str) -> None:
    with pytest.raises(SpecError, match="cannot be read"):
        parse(requested, base_params=BASE_PARAMS)


@pytest.mark.parametrize("requested", ["101%", "22713217", "1B"])
def test_more_than_the_model_is_refused(requested: str) -> None:
    with pytest.raises(SpecError, match=repr(requested)):
        parse(requested, base_params=BASE_PARAMS)


@pytest.mark.parametrize("requested", ["0", "0%", "0.5", "0.0001k", "0.000001%"])
def test_less_than_one_parameter_is_a_budget_that_no_plan_fits(requested: str) -> None:
    with pytest.raises(BudgetError, match=repr(requested)):
        parse(requested, base_params=1_000_000)
    assert parse("0.0001%", base_params=1_000_000).max_trainable_params == 1


def test_an_impossible_budget_names_the_cheapest_plan() -> None:
    budget = Budget(max_trainable_params=300, base_params=BASE_PARAMS, requested="300")
    with pytest.raises(BudgetError, match=r"ia3 .* 384"):
        require_feasible({"lora": 768, "ia3": 384, "zeta": 384}, budget=budget)


@pytest.mark.parametrize("limit", [384, 385])
def test_a_budget_that_one_method_fits_is_accepted(limit: int) -> None:
    budget = Budget(max_trainable_params=limit, base_params=BASE_PARAMS, requested=str(limit))
    require_feasible({"lora": 10_000, "ia3": 384}, budget=budget)


def test_numbers_in_names_sort_by_value() -> None:
    names = ["h.0.mlp.w2", "h.0.mlp.w10", "h.2.q", "h.10.q", "pooler"]
    assert sorted(names, key=natural_key) == names


@pytest.mark.parametrize(
    ("n_tokens", "base_params", "rank"),
    [
        (1, 10**9, 1),
        (1000, 10**9, 1),
        (1001, 10**9, 2),
        (50_000, 10**9, 64),
        (10**9, 10**9, 256),
        (50_000, 9000, 8),
    ],
)
def test_automatic_rank_has_a_parameter_for_each_token(n_tokens, base_params, rank):
    assert rank_for(n_tokens, rank_params=1000, base_params=base_params) == rank


def test_automatic_budget_needs_rows() -> None:
    with pytest.raises(SpecError, match="--data"):
        parse("auto", base_params=BASE_PARAMS)

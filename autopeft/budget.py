"""Parses the budget of trainable parameters, and allocates it as ranks.

Pure arithmetic: the cost of a method at a target module is passed in as a function of the rank.
"""

from __future__ import annotations

import heapq
import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from statistics import mode

from autopeft.errors import BudgetError, SpecError
from autopeft.types import Budget

# A comma separates thousands only: `0,5%` must not be read as 5 %.
_AMOUNT = re.compile(
    r"((?:[1-9]\d{0,2}(?:,\d{3})+|[1-9]\d{0,2}(?:_\d{3})+|\d+)(?:\.\d+)?|\.\d+)\s*([kKmMbB%]?)", re.ASCII
)
_RANK = re.compile(r"[rR]([1-9]\d{0,3})")
_FACTOR = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9}
_ALLOWED = "write a share of the base model such as 0.5%, a rank such as r16, a number such as 300k, or auto"
AUTO = "auto"
RANKS = (1, 2, 4, 8, 16, 32, 64, 128, 256)  # powers of two, as people and kernels use them


def parse(requested: str, *, base_params: int, rank_params: int = 0) -> Budget:
    """Read `--budget` as a whole number of trainable parameters, in [1, base_params].

    It is `0.5%`, `300k`, `1.2M`, `2B` or `113000`; thousands may be separated by , or _. `r16` is what LoRA
    of rank 16 on all linear layers trains, `rank_params` what it trains at rank 1.

    Raises:
        SpecError: The text cannot be read, is `auto`, which needs rows (`rank_for`), or asks for more
            parameters than the model has.
        BudgetError: Less than one parameter.
    """
    text = requested.strip()
    if text == AUTO:
        raise SpecError("The budget 'auto' needs the rows of a language model: pass --data, or a rank.")
    if rank := _RANK.fullmatch(text):
        exact = Fraction(int(rank[1]) * rank_params)
    elif match := _AMOUNT.fullmatch(text):
        amount, unit = Fraction(match[1].replace(",", "").replace("_", "")), match[2].lower()
        exact = amount * base_params / 100 if unit == "%" else amount * _FACTOR[unit]
    else:
        raise SpecError(f"The budget {requested!r} cannot be read; {_ALLOWED}.")
    if exact > base_params:
        size = "" if text.endswith("%") else f" ({base_params:,} parameters)"
        raise SpecError(
            f"The budget {requested!r} is more than the whole base model{size}; ask for at most 100%."
        )
    if exact < 1:
        hint = "write 0.5% for a share" if text.replace(".", "").isdigit() else "ask for more"
        raise BudgetError(f"The budget {requested!r} is less than one parameter; {hint}.")
    return Budget(max_trainable_params=int(exact), base_params=base_params, requested=text)


def rank_for(n_tokens: int, *, rank_params: int, base_params: int) -> int:
    """Return the lowest rank at which LoRA has a parameter for each token that it learns to write.

    If none has, return the highest rank with fewer parameters than the base model.

    Source: "a very rough approximation" of tinker-docs.thinkingmachines.ai/lora-primer.
    """
    ranks = [rank for rank in RANKS if rank * rank_params < base_params] or [1]
    return next((rank for rank in ranks if rank * rank_params >= n_tokens), ranks[-1])


@dataclass(frozen=True, kw_only=True)
class Claim:
    """The claim of one target module, by its name, on the budget.

    `ranks` are those that it may get, ascending and >= 1. `cost` returns the trainable parameters of a rank,
    strictly increasing. A claim that `comes_first` is
    served before all others.
    """

    target: str
    ranks: Sequence[int]
    cost: Callable[[int], int]
    comes_first: bool = False


def allocate(claims: Iterable[Claim], *, max_params: int) -> dict[str, int]:
    """Allocate a budget as ranks >= 1 by target module, in natural order of names.

    An upgrade takes a target module to its next rank. The budget is never exceeded, and no upgrade that still
    fits remains. A target module that gets no rank is left out.

    Each upgrade goes to the target module with the smallest next rank, in units of its smallest one, so that
    methods can share a budget. Ties go to the smaller rank, then to the cheaper upgrade, then to the later
    target module in natural order; the order of claims does not matter. The cost of the result never falls
    when the budget rises.
    """
    ordered = sorted(claims, key=lambda claim: natural_key(claim.target), reverse=True)
    assert len({claim.target for claim in ordered}) == len(ordered), "two claims for one target module"
    taken = [0] * len(ordered)  # how many of its ranks each claim has passed
    spent = 0
    heap = [_upgrade(claim, index, taken=0) for index, claim in enumerate(ordered) if claim.ranks]
    heapq.heapify(heap)
    while heap:
        *_, price, index = heapq.heappop(heap)
        if spent + price > max_params:
            continue  # for good, since what remains of the budget only shrinks
        spent += price
        taken[index] += 1
        if taken[index] < len(ordered[index].ranks):
            heapq.heappush(heap, _upgrade(ordered[index], index, taken=taken[index]))
    granted = {claim.target: claim.ranks[n - 1] for claim, n in zip(ordered, taken, strict=True) if n}
    return dict(sorted(granted.items(), key=lambda item: natural_key(item[0])))


def _upgrade(claim: Claim, index: int, *, taken: int) -> tuple[bool, float, int, int, int]:
    """Return the heap entry of the next rank: by its size, then price and name."""
    rank, rank_before = claim.ranks[taken], claim.ranks[taken - 1] if taken else 0
    price = claim.cost(rank) - (claim.cost(rank_before) if taken else 0)
    return (not claim.comes_first, -claim.ranks[0] / rank, rank, price, index)


def at_one_rank(claims: Sequence[Claim], *, max_params: int, may_differ: bool) -> Sequence[Claim]:
    """Cut claims to the largest common rank that fits the budget at all targets.

    1. If ranks may differ, a target module with lower ranks takes its last one. The claims stay as they are
       if no rank fits at all targets, or if the next rank is more than an eighth larger: one rank would
       leave much of the budget, up to half at rank 1.
    2. If they may not, target modules without the most common lowest rank are left out, such as those of OFT
       with inputs that no power of two divides. If no rank fits at all targets, each claims the lowest rank.

    Cut claims come first.
    """
    if not claims:
        return claims
    ladder, kept = max((claim.ranks for claim in claims), key=lambda ranks: ranks[-1]), claims
    if not may_differ:
        lowest = mode(claim.ranks[0] for claim in claims)
        kept = [claim for claim in claims if claim.ranks[0] == lowest]
        ladder = min((claim.ranks for claim in kept), key=len)

    def at(rank: int) -> list[Claim]:
        granted = [(claim, rank) for claim in kept if rank in claim.ranks]
        if may_differ:
            granted = [(c, c.ranks[max(1, bisect_right(c.ranks, rank)) - 1]) for c in kept]
        return [replace(claim, ranks=(its_rank,), comes_first=True) for claim, its_rank in granted]

    n_fitting = bisect_right(ladder, max_params, key=lambda r: sum(c.cost(c.ranks[0]) for c in at(r)))
    if not n_fitting:
        return claims if may_differ else [replace(claim, ranks=ladder[:1]) for claim in kept]
    rank = ladder[n_fitting - 1]
    is_coarse = may_differ and n_fitting < len(ladder) and 8 * (ladder[n_fitting] - rank) > rank
    return claims if is_coarse else at(rank)


def require_feasible(cheapest: dict[str, int], *, budget: Budget) -> None:
    """Raise BudgetError if no plan fits; `cheapest` has the parameters of the smallest by method or mix."""
    name = min(cheapest, key=lambda method: (cheapest[method], method))
    if cheapest[name] <= budget.max_trainable_params:
        return
    raise BudgetError(
        f"The budget {budget.requested!r} allows {budget.max_trainable_params:,} trainable parameters; "
        f"the cheapest plan ({name} where it costs least) needs {cheapest[name]:,}. Raise --budget."
    )


def natural_key(name: str) -> tuple[tuple[int, str], ...]:
    """Return a sort key that puts `layer.10` after `layer.9`."""
    tokens = re.findall(r"\d+|\D+", name)
    return tuple((int(token), "") if token.isdecimal() else (-1, token) for token in tokens)

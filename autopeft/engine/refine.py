"""Small steps from what is good so far: another learning rate, or a rank moved between two sites."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace

from autopeft.records import Adapter, Plan
from autopeft.space import AllocationContext


def next_rate(losses: Mapping[float, float], bounds: tuple[float, float]) -> float | None:
    """The learning rate to try next, from what some have cost: between the best and its better neighbour.

    Where the best one lies outermost, between it and the end of the range, if there is room. None where
    neighbours are within a tenth of each other: there is nothing left to tell apart.

    Args:
        losses: Learning rate -> loss, at least one; inf for one that diverged.
        bounds: The range of the method, ascending.

    Example:
        >>> next_rate({1e-3: 0.5, 4e-3: 0.3, 1.6e-2: 0.4}, (5e-4, 3e-2))
        0.008
        >>> round(next_rate({1e-3: 0.5, 4e-3: 0.3}, (5e-4, 1.6e-2)), 6)
        0.008
    """
    rates = sorted(losses)
    best = min(range(len(rates)), key=lambda i: (losses[rates[i]], rates[i]))
    below = rates[best - 1] if best else None
    above = rates[best + 1] if best + 1 < len(rates) else None
    if below is not None and above is not None:
        ends = [below, above] if losses[below] <= losses[above] else [above, below]
    elif below is None and above is None:
        ends = [bounds[0], bounds[1]]
    else:
        ends = [bounds[0], above] if below is None and above is not None else [bounds[1], below or bounds[0]]
    for end in ends:
        if abs(math.log(end / rates[best])) > math.log(1.1) * 2:
            return math.sqrt(end * rates[best])
    return None


def moved_ranks(plan: Plan, context: AllocationContext, *, known: Collection[Plan]) -> Plan | None:
    """The plan with one step of rank moved between two sites at equal cost, to where it earns most.

    A rank earns the site's score per parameter over the rank, as in the allocator. None where no move
    gives a plan that is not known.
    """
    for donor, receiver in _moves(plan, context):
        changed = {own.site: own for own in (donor, receiver)}
        adapters = tuple(changed.get(own.site, own) for own in plan.adapters)
        moved = replace(plan, adapters=adapters)
        if moved not in known:
            return moved
    return None


def _moves(plan: Plan, context: AllocationContext) -> Iterator[tuple[Adapter, Adapter]]:
    """Adapters with a rank less and a rank more, the most promising pair first."""
    fewer = [step for own in plan.adapters for step in _steps(own, context, by=-1)]
    more = [step for own in plan.adapters for step in _steps(own, context, by=1)]
    pairs = [
        (gain - loss, donor, receiver)
        for loss, price, donor in fewer
        for gain, cost, receiver in more
        if price == cost and donor.site != receiver.site and donor.method == receiver.method
    ]
    pairs.sort(key=lambda pair: (-pair[0], pair[1].site, pair[2].site))
    yield from ((donor, receiver) for _, donor, receiver in pairs)


def _steps(adapter: Adapter, context: AllocationContext, *, by: int) -> Iterator[tuple[float, int, Adapter]]:
    """What the step earns, its parameters, and the adapter after it; nothing where there is no such step."""
    method = context.methods[adapter.method]
    site = next(site for site in context.sites if site.name == adapter.site)
    options = dict(adapter.options)
    ranks = list(method.ranks(site, options)) if method.ranked else []
    at = ranks.index(adapter.rank) + by if adapter.rank in ranks else -1
    if 0 <= at < len(ranks):
        costs = [method.cost(site, rank, options) for rank in (adapter.rank, ranks[at])]
        price = abs(costs[1] - costs[0])
        earned = context.scores[site.name] / price / max(adapter.rank, ranks[at])
        yield earned, price, replace(adapter, rank=ranks[at])

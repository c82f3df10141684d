"""Learning rates as positions in the range that was searched: 0 is its low end, 1 its high end."""

from __future__ import annotations

from autopeft.records import Plan, SearchResult, rate, rate_position
from autopeft.report.measured import is_untrained
from autopeft.report.words import NOTHING

_EDGE = 0.1  # of a range, to each side; chosen by hand


def position_of(plan: Plan, result: SearchResult) -> float | None:
    """The position of a plan's learning rate; None where the run kept no range for it.

    A plan of the user has none: its scale may be another, and with it the range.
    """
    if any(p.plan == plan and p.arm.kind == "given" for p in result.proposals):
        return None
    bounds = result.setting.learning_rate_ranges.get(plan.lead_method or "")
    return None if bounds is None else rate_position(plan.learning_rate, bounds)


def rate_words(plan: Plan, result: SearchResult) -> str:
    """A plan's learning rate, with its position where it has one; a dash for the untrained model."""
    if is_untrained(result, plan):
        return NOTHING
    position = position_of(plan, result)
    if position is None:
        return rate(plan.learning_rate)
    low, high = map(rate, result.setting.learning_rate_ranges[plan.lead_method or ""])
    return f"{rate(plan.learning_rate)} (position {position:.2f} of {low} … {high})"


def edge_sentence(result: SearchResult) -> str:
    """What to do where the best rate lies in the outer tenth of its method's range; empty elsewhere."""
    position = position_of(result.best, result) if result.best.adapters else None
    if position is None or _EDGE <= position <= 1 - _EDGE:
        return ""
    end, direction = ("low", "lower") if position < _EDGE else ("high", "higher")
    return (
        f"The best learning rate lies at the {end} end of its range: a {direction} one may be better. "
        "Give the method another range in a search space of your own."
    )

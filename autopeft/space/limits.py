"""Limits beside the budget: what a space loses to them beforehand, and by how much a plan breaks them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from autopeft.errors import SpecError
from autopeft.extension import Method
from autopeft.records import LimitSpec
from autopeft.space.files import MethodSpace, Space

_Part = TypeVar("_Part", bound=MethodSpace)


def limited(space: Space, limits: LimitSpec, methods: Mapping[str, Method]) -> Space:
    """The part of a space that keeps to the limits that are known before anything is measured.

    Ranks are capped; methods that do not merge, or whose declared step time is above the limit, go,
    and so do the mixes of them. What DoRA or an option adds to a step shows when it is measured.

    Raises:
        SpecError: Nothing of the space is left.
    """
    kept = {name: own for name, own in space.methods.items() if _keeps(methods[name], limits)}
    mixes = {
        name: parts
        for name, parts in space.mixes.items()
        if all(_keeps(methods[part.method], limits) for part in parts)
    }
    if limits.max_rank is not None:
        cap = limits.max_rank
        kept = {name: _capped(own, cap) for name, own in kept.items() if _reaches(own, cap)}
        mixes = {
            name: tuple(_capped(part, cap) for part in parts)
            for name, parts in mixes.items()
            if all(_reaches(part, cap) for part in parts)
        }
    if not kept and not mixes:
        raise SpecError(
            f"Nothing of the search space keeps to the limits {_told(limits)}; "
            "raise or drop one of them, or choose another --space."
        )
    return space.model_copy(update={"methods": kept, "mixes": mixes})


def _keeps(method: Method, limits: LimitSpec) -> bool:
    is_quick = limits.max_step_time is None or method.step_time <= limits.max_step_time
    return is_quick and (method.merges or not limits.mergeable)


def _reaches(own: MethodSpace, cap: int) -> bool:
    """Whether anything is left of a part under a cap on its ranks."""
    if own.size:
        return any(0 < size <= cap for size in own.size)
    return own.min_rank is None or own.min_rank <= cap


def _capped(own: _Part, cap: int) -> _Part:
    if own.size:
        return own.model_copy(update={"size": tuple(size for size in own.size if size <= cap)})
    return own.model_copy(update={"max_rank": cap if own.max_rank is None else min(own.max_rank, cap)})


def _told(limits: LimitSpec) -> str:
    given = limits.model_dump(exclude_defaults=True)
    return ", ".join(f"{name} {value}" for name, value in given.items())


def violations(
    limits: LimitSpec,
    *,
    peak_bytes: int,
    seconds_per_step: float,
    lora_seconds_per_step: float,
    adapter_bytes: int,
) -> dict[str, float]:
    """By how much a measured plan breaks each limit: 0 or less within it, 1.0 at twice of it.

    What Optuna's `Trial.set_constraint` takes, on one scale for all.

    Args:
        limits: Those that are None are left out.
        peak_bytes: Of one training run.
        seconds_per_step: Of the plan.
        lora_seconds_per_step: Of plain LoRA at the same sites and on the same machine, > 0.
        adapter_bytes: Of the adapter's file.

    Example:
        >>> violations(
        ...     LimitSpec(max_peak_bytes=100, max_step_time=2.0),
        ...     peak_bytes=150, seconds_per_step=1.0, lora_seconds_per_step=1.0, adapter_bytes=0,
        ... )
        {'max_step_time': -0.5, 'max_peak_bytes': 0.5}
    """
    measured = {
        "max_step_time": (seconds_per_step / lora_seconds_per_step, limits.max_step_time),
        "max_peak_bytes": (peak_bytes, limits.max_peak_bytes),
        "max_adapter_bytes": (adapter_bytes, limits.max_adapter_bytes),
    }
    return {name: value / limit - 1.0 for name, (value, limit) in measured.items() if limit is not None}

"""What a method without options, rank, scale or servers says; methods take these as they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from autopeft.records import OptionValue, Site


def no_servers(self: object, options: Mapping[str, OptionValue]) -> tuple[str, ...]:
    """None: no server reads anything but LoRA."""
    return ()


def no_options(self: object, site: Site, **choices: OptionValue) -> Mapping[str, OptionValue]:
    """None."""
    return {}


def no_scale(self: object, rank: int, **choices: OptionValue) -> float:
    """1: the method has no scale."""
    return 1.0


def double_scale(self: object, rank: int, **choices: OptionValue) -> float:
    """2, the habit of the LoRA community (alpha = 2 r)."""
    return 2.0


def no_rank(self: object, site: Site, options: Mapping[str, OptionValue]) -> Sequence[int]:
    """There is no rank; one step takes it or leaves it."""
    return (1,)

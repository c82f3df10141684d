"""From adapters to `peft` configs: by group, one for each rank, or one for all with patterns."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from peft import PeftConfig

from autopeft.methods.parts.patterns import by_pattern, pattern_of
from autopeft.records import Adapter

Key = TypeVar("Key", bound="int | tuple[Any, ...]")
Configs = Callable[[Sequence[Adapter]], tuple[PeftConfig, ...]]


def grouped(adapters: Iterable[Adapter], key: Callable[[Adapter], Key]) -> list[tuple[Key, list[Adapter]]]:
    """Each key and its adapters, keys ascending."""
    groups: dict[Key, list[Adapter]] = defaultdict(list)
    for adapter in adapters:
        groups[key(adapter)].append(adapter)
    return sorted(groups.items())


def alphas_of(adapters: Iterable[Adapter]) -> tuple[float, dict[str, float]]:
    """The commonest alpha (scale times rank), and patterns of the sites that have another one.

    Other tools read alphas as whole numbers, so an alpha that only rounding keeps from one becomes an int.
    """
    alphas = {adapter.site: adapter.scale * adapter.rank for adapter in adapters}
    return by_pattern({site: round(x) if math.isclose(x, round(x)) else x for site, x in alphas.items()})


def doublings(limit: int) -> tuple[int, ...]:
    """1, 2, 4, … up to a limit: few ranks, where each rank in use needs a config of its own.

    Example:
        >>> doublings(12)
        (1, 2, 4, 8)
    """
    return tuple(2**power for power in range(max(1, limit).bit_length()))


def one_config_per_rank(make: Callable[[int, str], PeftConfig]) -> Configs:
    """`Method.configs` for a `peft` config that holds one rank; `make` gets a rank and its sites' pattern."""
    return lambda adapters: tuple(
        make(rank, pattern_of(group)) for rank, group in grouped(adapters, lambda adapter: adapter.rank)
    )


def lycoris_config(kind: type[PeftConfig]) -> Configs:
    """`Method.configs` for LoHa and LoKr: one config with ranks and alphas by pattern."""

    def configs(adapters: Sequence[Adapter]) -> tuple[PeftConfig, ...]:
        rank, ranks = by_pattern({adapter.site: adapter.rank for adapter in adapters})
        alpha, alphas = alphas_of(adapters)
        targets = pattern_of(adapters)
        return (kind(r=rank, alpha=alpha, target_modules=targets, rank_pattern=ranks, alpha_pattern=alphas),)

    return configs

"""From adapters to `peft` configs: by group, one for each rank, or one for all with patterns."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from peft import PeftConfig

from autopeft.methods.parts.patterns import by_pattern, sites_pattern, whole
from autopeft.records import Adapter

Key = TypeVar("Key", bound="int | tuple[Any, ...]")
Configs = Callable[[Sequence[Adapter]], tuple[PeftConfig, ...]]


def pattern_of(adapters: Iterable[Adapter]) -> str:
    """The pattern of the sites that have the adapters."""
    return sites_pattern(adapter.site for adapter in adapters)


def grouped(adapters: Iterable[Adapter], key: Callable[[Adapter], Key]) -> list[tuple[Key, list[Adapter]]]:
    """Each key and its adapters, keys ascending."""
    groups: dict[Key, list[Adapter]] = defaultdict(list)
    for adapter in adapters:
        groups[key(adapter)].append(adapter)
    return sorted(groups.items())


def doublings(limit: int) -> tuple[int, ...]:
    """1, 2, 4, … up to a limit: few ranks, where each rank in use needs a config of its own.

    Example:
        >>> doublings(12)
        (1, 2, 4, 8)
    """
    return tuple(2**power for power in range(max(1, limit).bit_length()))


def one_config_per_rank(make: Callable[[int, str], PeftConfig]) -> Configs:
    """`Method.configs` for a `peft` config that holds one rank.

    Args:
        make: Rank and pattern of its sites -> config.
    """

    def configs(adapters: Sequence[Adapter]) -> tuple[PeftConfig, ...]:
        groups = grouped(adapters, lambda adapter: adapter.rank)
        return tuple(make(rank, pattern_of(group)) for rank, group in groups)

    return configs


def lycoris_config(kind: type[PeftConfig]) -> Configs:
    """`Method.configs` for LoHa and LoKr: one config with ranks by pattern.

    Alphas go by pattern too, so that each adapter has the scale that the plan gives it.
    """

    def configs(adapters: Sequence[Adapter]) -> tuple[PeftConfig, ...]:
        rank, ranks = by_pattern({adapter.site: adapter.rank for adapter in adapters})
        alpha, alphas = by_pattern(
            {adapter.site: whole(adapter.scale * adapter.rank) for adapter in adapters}
        )
        config = kind(
            r=rank,
            alpha=alpha,
            target_modules=pattern_of(adapters),
            rank_pattern=ranks,
            alpha_pattern=alphas,
        )
        return (config,)

    return configs

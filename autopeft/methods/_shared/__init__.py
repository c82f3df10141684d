"""What methods share: refusals, patterns of target modules, and configs by group.

Patterns are regular expressions: one anchored pattern for a set of module names. `peft` matches a string
`target_modules` with `re.fullmatch` on the full module name. A list would be matched by the endings of names
and, from 20 names on, condensed on injection: the saved config would no longer list the chosen target modules
(peft 0.21, MIN_TARGET_MODULES_FOR_OPTIMIZATION).
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from operator import attrgetter
from statistics import mode
from typing import TypeVar

from peft import PeftConfig

from autopeft.types import Adapter, Target


def only_linear_layers(target: Target) -> str | None:
    """Refuse all but linear layers in either storage order: `nn.Linear` and Conv1D."""
    if target.kind in ("linear", "conv1d"):
        return None
    return f"takes linear layers, and {'this is a norm' if target.kind == 'norm' else 'these are experts'}"


def only_linear(target: Target) -> str | None:
    """Refuse all but `nn.Linear`, for tuners that do not know Conv1D."""
    return "takes nn.Linear, and this is a Conv1D" if target.kind == "conv1d" else only_linear_layers(target)


def only_plain_linear(target: Target) -> str | None:
    """Refuse all but plain `nn.Linear`, for tuners that compute with the weights as they are stored.

    On bitsandbytes' layers they fail in peft 0.21.2, or count packed weights
    (research/2026-11-25-quantized-methods.md).
    """
    if target.quantized:
        return "computes with the weights themselves, and these are quantized"
    return only_linear(target)


Value = TypeVar("Value", int, float)
_LAYER = re.compile(r"^(.*?\.)(\d+)(\..*)$")  # a name up to its layer number, the number, and what follows


def targets_pattern(names: Iterable[str]) -> str:
    r"""Build a regular expression that full-matches these module names and no others.

    Names that differ only in their layer number are folded, and so are endings in the same layers.
    """
    layers_of: dict[tuple[str, str], set[int]] = defaultdict(set)
    alone: list[str] = []
    for name in names:
        if match := _LAYER.match(name):
            layers_of[match[1], match[3]].add(int(match[2]))
        else:
            alone.append(re.escape(name))
    endings: dict[tuple[str, tuple[int, ...]], list[str]] = defaultdict(list)
    for (head, tail), layers in layers_of.items():
        endings[head, tuple(sorted(layers))].append(tail)
    folded = [
        rf"{re.escape(head)}{_any(map(str, layers))}\.{_any(re.escape(tail[1:]) for tail in sorted(tails))}"
        for (head, layers), tails in sorted(endings.items())
    ]
    return _any(folded + sorted(alone))


def pattern_of(adapters: Iterable[Adapter]) -> str:
    """Build the pattern of the target modules of these adapters."""
    return targets_pattern(adapter.target for adapter in adapters)


def by_pattern(values: Mapping[str, Value]) -> tuple[Value, dict[str, Value]]:
    r"""Return the most frequent value, and anchored patterns of the target modules with another one.

    `rank_pattern` and its like have this form. `peft` looks a key up with `re.match(rf"(.*\.)?({key})$",
    name)`; without the anchor the ending of a name would match too.

    Example:
        >>> by_pattern({"h.0.q": 8, "h.1.q": 8, "h.0.v": 2})
        (8, {'^h\\.0\\.v': 2})
    """
    default = mode(sorted(values.values()))
    targets_of: dict[Value, list[str]] = defaultdict(list)
    for target, value in values.items():
        if value != default:
            targets_of[value].append(target)
    return default, {f"^{targets_pattern(targets)}": value for value, targets in sorted(targets_of.items())}


def _any(choices: Iterable[str]) -> str:
    listed = list(choices)
    return listed[0] if len(listed) == 1 else f"(?:{'|'.join(listed)})"


Configs = Callable[[Sequence[Adapter]], tuple[PeftConfig, ...]]


def alphas_of(adapters: Iterable[Adapter]) -> tuple[float, dict[str, float]]:
    """Return the most frequent alpha (scale times rank), and patterns of the targets with another one.

    Other tools read alphas as whole numbers: an alpha that differs from one by rounding becomes an int.
    """
    alphas = {adapter.target: adapter.scale * adapter.rank for adapter in adapters}
    return by_pattern({target: round(x) if math.isclose(x, round(x)) else x for target, x in alphas.items()})


def doublings(limit: int) -> tuple[int, ...]:
    """List 1, 2, 4, … up to a limit, for ranks that divide a width."""
    return tuple(2**power for power in range(max(1, limit).bit_length()))


def one_config_per_rank(make: Callable[[int, str], PeftConfig]) -> Configs:
    """Build `Method.configs` from a function of a rank and the pattern of its target modules."""
    rank_of = attrgetter("rank")
    return lambda adapters: tuple(
        make(rank, pattern_of(group)) for rank, group in groupby(sorted(adapters, key=rank_of), rank_of)
    )


def lycoris_config(kind: type[PeftConfig]) -> Configs:
    """Build `Method.configs` for LoHa and LoKr: one config with ranks and alphas by pattern."""

    def configs(adapters: Sequence[Adapter]) -> tuple[PeftConfig, ...]:
        rank, ranks = by_pattern({adapter.target: adapter.rank for adapter in adapters})
        alpha, alphas = alphas_of(adapters)
        targets = pattern_of(adapters)
        return (kind(r=rank, alpha=alpha, target_modules=targets, rank_pattern=ranks, alpha_pattern=alphas),)

    return configs

"""How methods name their sites: one anchored regular expression for a set of them.

`peft` matches a string `target_modules` with `re.fullmatch` on the full module name. A
list would be matched by its endings and, from 20 names on, condensed on injection,
so that what is saved is no longer what was chosen (peft 0.21, MIN_TARGET_MODULES_FOR_OPTIMIZATION).
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

from peft import PeftConfig

from autopeft.errors import SpecError
from autopeft.records import Adapter, Site

Value = TypeVar("Value", int, float)
_NOUNS = {
    "norm": "and this is a norm",
    "embedding": "and this is an embedding",
    "parameter": "and these are experts in one parameter",
    "model": "and this is the model as a whole",
}
_LAYER = re.compile(r"^(.*?\.)(\d+)(\..*)$")


def sites_pattern(names: Iterable[str]) -> str:
    r"""A regular expression that full-matches the given module names and no others.

    Names that differ only in their layer number are folded, and so are endings that
    appear in the same layers, so that the config stays readable.

    Example:
        >>> sites_pattern(["h.0.q", "h.1.q", "h.0.v", "h.1.v", "pooler"])
        '(?:h\\.(?:0|1)\\.(?:q|v)|pooler)'
    """
    layers_of: dict[tuple[str, str], set[int]] = defaultdict(set)
    alone: list[str] = []
    for name in names:
        match = _LAYER.match(name)
        if match:
            layers_of[match[1], match[3]].add(int(match[2]))
        else:
            alone.append(re.escape(name))
    endings: dict[tuple[str, tuple[int, ...]], list[str]] = defaultdict(list)
    for (head, tail), layers in layers_of.items():
        endings[head, tuple(sorted(layers))].append(tail)
    folded = [
        re.escape(head)
        + _any(str(layer) for layer in layers)
        + r"\."
        + _any(re.escape(t[1:]) for t in sorted(tails))
        for (head, layers), tails in sorted(endings.items())
    ]
    return _any(folded + sorted(alone))


def by_pattern(values: Mapping[str, Value]) -> tuple[Value, dict[str, Value]]:
    r"""The commonest value, and anchored patterns of the sites that have another one.

    The form of `rank_pattern` and its like: `peft` looks a key up with
    `re.match(rf"(.*\.)?({key})$", name)`, so that without the anchor an ending would do.

    Example:
        >>> by_pattern({"h.0.q": 8, "h.1.q": 8, "h.0.v": 2})
        (8, {'^h\\.0\\.v': 2})
    """
    (default, _), *_ = Counter(sorted(values.values())).most_common(1)
    sites_of: dict[Value, list[str]] = defaultdict(list)
    for site, value in values.items():
        sites_of[value].append(site)
    others = {value: sites for value, sites in sorted(sites_of.items()) if value != default}
    return default, {f"^{sites_pattern(sites)}": value for value, sites in others.items()}


def by_inner_pattern(values: Mapping[str, int]) -> tuple[int, dict[str, int]]:
    r"""The same for the configs that `peft` looks up with `re.match(rf".*\.{key}$", name)`.

    The key cannot match the whole name there, so the part before its first dot is asked for
    by a look-behind; a name without a dot can only have the default.

    Example:
        >>> by_inner_pattern({"h.0.q": 8, "h.1.q": 8, "h.0.v": 2})
        (8, {'(?<=^h\\.)0\\.v': 2})
    """
    short = sorted({value for site, value in values.items() if "." not in site})
    if len(short) > 1:
        raise SpecError(f"Modules at the top of the model have different sizes {short}; peft allows one.")
    default = short[0] if short else by_pattern(values)[0]
    patterns = {}
    for root in sorted({site.partition(".")[0] for site in values}):
        for value in sorted(set(values.values()) - {default}):
            inner = [
                s.partition(".")[2] for s, own in values.items() if own == value and s.startswith(f"{root}.")
            ]
            if inner:
                patterns[rf"(?<=^{re.escape(root)}\.){sites_pattern(inner)}"] = value
    return default, patterns


def one_config_per_rank(
    adapters: Sequence[Adapter], make: Callable[[int, str], PeftConfig]
) -> tuple[PeftConfig, ...]:
    """For methods whose config holds one rank: `make` gets each rank in use and the pattern of its sites."""
    sites_of: dict[int, list[str]] = defaultdict(list)
    for adapter in adapters:
        sites_of[adapter.rank].append(adapter.site)
    return tuple(make(rank, sites_pattern(sites)) for rank, sites in sorted(sites_of.items()))


def lycoris_config(kind: type[PeftConfig], adapters: Sequence[Adapter]) -> PeftConfig:
    """One config of LoHa or LoKr: ranks by pattern, and alphas so that each adapter has its own scale."""
    rank, ranks = by_pattern({adapter.site: adapter.rank for adapter in adapters})
    alpha, alphas = by_pattern({adapter.site: whole(adapter.scale * adapter.rank) for adapter in adapters})
    return kind(
        r=rank,
        alpha=alpha,
        target_modules=sites_pattern(adapter.site for adapter in adapters),
        rank_pattern=ranks,
        alpha_pattern=alphas,
    )


def only_linear(site: Site, method: str) -> str | None:
    """The refusal of a method whose tuner knows `nn.Linear` alone."""
    if site.kind == "conv1d":
        return f"{method} takes nn.Linear, and this is a Conv1D"
    return only_maps(site, method)


def only_plain_linear(site: Site, method: str) -> str | None:
    """The refusal of a method whose tuner computes with the weights as they are stored.

    On bitsandbytes' maps these fail in peft 0.21.2, or count packed weights (reports/LOG.md, 2026-11-25).
    """
    if site.quantised:
        return f"{method} computes with the weights themselves, and these are quantised"
    return only_linear(site, method)


def only_maps(site: Site, method: str) -> str | None:
    """The refusal of a method that takes linear maps in either storage order."""
    return None if site.kind in ("linear", "conv1d") else f"{method} takes linear maps, {_NOUNS[site.kind]}"


def whole(value: float) -> float:
    """A number without its fraction where that is zero but for rounding, as other tools expect alphas."""
    return round(value) if math.isclose(value, round(value)) else value


def doublings(limit: int) -> tuple[int, ...]:
    """1, 2, 4, … up to a limit.

    The ranks of methods whose config holds one rank: each rank in use needs a config of its own.

    Example:
        >>> doublings(12)
        (1, 2, 4, 8)
    """
    return tuple(2**power for power in range(max(1, limit).bit_length()))


def _any(choices: Iterable[str]) -> str:
    listed = list(choices)
    return listed[0] if len(listed) == 1 else f"(?:{'|'.join(listed)})"

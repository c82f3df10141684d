"""Sites as regular expressions: one anchored pattern for a set of module names.

`peft` matches a string `target_modules` with `re.fullmatch` on the full module name. A list would be matched
by the endings of names and, from 20 names on, condensed on injection: the saved config would no longer name
the chosen sites (peft 0.21, MIN_TARGET_MODULES_FOR_OPTIMIZATION).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from statistics import mode
from typing import TypeVar

from autopeft.errors import SpecError
from autopeft.records import Adapter

Value = TypeVar("Value", int, float)
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
    """The pattern of the sites that have the adapters."""
    return sites_pattern(adapter.site for adapter in adapters)


def by_pattern(values: Mapping[str, Value]) -> tuple[Value, dict[str, Value]]:
    r"""The commonest value, and anchored patterns of the sites that have another one.

    The form of `rank_pattern` and its like. `peft` looks a key up with `re.match(rf"(.*\.)?({key})$", name)`;
    without the anchor the ending of a name would match too.

    Example:
        >>> by_pattern({"h.0.q": 8, "h.1.q": 8, "h.0.v": 2})
        (8, {'^h\\.0\\.v': 2})
    """
    default = mode(sorted(values.values()))
    sites_of: dict[Value, list[str]] = defaultdict(list)
    for site, value in values.items():
        if value != default:
            sites_of[value].append(site)
    return default, {f"^{sites_pattern(sites)}": value for value, sites in sorted(sites_of.items())}


def by_inner_pattern(values: Mapping[str, int]) -> tuple[int, dict[str, int]]:
    r"""`by_pattern` for the configs that `peft` looks up with `re.match(rf".*\.{key}$", name)`.

    The key cannot match the whole name there. A look-behind asks for the part before the first dot; a name
    without a dot can only have the default.

    Raises:
        SpecError: Names without a dot have different values.

    Example:
        >>> by_inner_pattern({"h.0.q": 8, "h.1.q": 8, "h.0.v": 2})
        (8, {'(?<=^h\\.)0\\.v': 2})
    """
    at_top = sorted({value for site, value in values.items() if "." not in site})
    if len(at_top) > 1:
        raise SpecError(f"Modules at the top of the model have different sizes {at_top}; peft allows one.")
    default = at_top[0] if at_top else by_pattern(values)[0]
    sites_of: dict[tuple[str, int], list[str]] = defaultdict(list)
    for site, value in values.items():
        if value != default:
            root, _, inner = site.partition(".")
            sites_of[root, value].append(inner)
    return default, {
        rf"(?<=^{re.escape(root)}\.){sites_pattern(inner)}": value
        for (root, value), inner in sorted(sites_of.items())
    }


def _any(choices: Iterable[str]) -> str:
    listed = list(choices)
    return listed[0] if len(listed) == 1 else f"(?:{'|'.join(listed)})"

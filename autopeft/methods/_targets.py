"""One anchored regular expression for a set of sites.

`peft` matches a string `target_modules` with `re.fullmatch` on the full module name. A
list would be matched by its endings and, from 20 names on, condensed on injection,
so that what is saved is no longer what was chosen (peft 0.21, MIN_TARGET_MODULES_FOR_OPTIMIZATION).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable

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


def _any(choices: Iterable[str]) -> str:
    listed = list(choices)
    return listed[0] if len(listed) == 1 else f"(?:{'|'.join(listed)})"

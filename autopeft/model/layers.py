"""Where a module stands in the stack of layers, read from its name."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable

from autopeft.records import layer_name
from autopeft.records.roles import LAYER

# Models in stages count the blocks of each anew: `layers.2.blocks.0` (Swin), `stages.2.layers.0` (ConvNeXt),
# `block.2.0` (SegFormer). A T5 has sub-layers in `block.2.layer.0`.
_BLOCK = re.compile(r"\.(?:stages\.(\d+)\.(?:blocks|layers)|layers\.(\d+)\.blocks|blocks?\.(\d+))\.(\d+)\.")
_BEHIND = 10**6  # the blocks of a stage: a map between two stages


def stack_name(site_name: str) -> str:
    """Name of the module that holds the lists of layers of a site in a layer; empty for the model itself.

    Example:
        >>> stack_name("bert.encoder.layer.3.attention.self.query"), stack_name("layers.3.q")
        ('bert.encoder', '')
    """
    return ".".join((layer_name(site_name) or "").split(".")[:-2])


def layer_numbers(names: Iterable[str]) -> dict[str, int]:
    """Module -> number of its layer, for those in the stack; blocks of several stages are counted on.

    A map between two stages belongs to the last block before it.

    Example:
        >>> layer_numbers(["bert.layer.0.q", "bert.layer.1.q", "pooler"])
        {'bert.layer.0.q': 0, 'bert.layer.1.q': 1}
        >>> layer_numbers(["m.layers.0.blocks.1.q", "m.layers.0.downsample.out", "m.layers.1.blocks.0.q"])
        {'m.layers.0.blocks.1.q': 0, 'm.layers.0.downsample.out': 0, 'm.layers.1.blocks.0.q': 1}
    """
    numbers = {name: int(match[1]) for name in names if (match := LAYER.search(name))}
    decoder = {name: number for name, number in numbers.items() if "decoder" in name.split(".")}
    in_stages = {name: block for name in numbers if name not in decoder and (block := _BLOCK.search(name))}
    if not in_stages:
        return numbers
    places = {name: (number, _BEHIND) for name, number in numbers.items() if name not in decoder}
    places |= {name: (int(b[1] or b[2] or b[3]), int(b[4])) for name, b in in_stages.items()}
    blocks = sorted({place for place in places.values() if place[1] < _BEHIND})
    return decoder | {name: max(0, bisect_right(blocks, place) - 1) for name, place in places.items()}

"""Where a module stands in the stack of layers, read from its name."""

from __future__ import annotations

import re

# The first number between dots is the layer's: `h.3.attn.c_attn`; later ones count experts or convolutions.
LAYER = re.compile(r"\.(\d+)\.")


def layer_name(site_name: str) -> str | None:
    """Name of the layer of the stack that holds a site; None outside the stack.

    Example:
        >>> layer_name("bert.encoder.layer.3.attention.self.query")
        'bert.encoder.layer.3'
    """
    number = LAYER.search(site_name)
    return site_name[: number.end(1)] if number else None

"""The words for what a site does in its layer, and the layer in its name."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

ROLE_GROUPS: Mapping[str, Sequence[str]] = {
    "attention": ("q", "k", "v", "kv", "qkv", "pos_q", "pos_k", "o"),
    "mlp": ("gate", "up", "gate_up", "down"),
}
# Maps that make several of queries, keys and values at once.
FUSED_ROLES: Mapping[str, Sequence[str]] = {"kv": ("k", "v"), "qkv": ("q", "k", "v")}
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

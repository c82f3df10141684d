"""What the methods share that train virtual tokens of the model as a whole."""

from __future__ import annotations

from autopeft.records import Site

MAX_TOKENS = 200  # the longest prefix in peft's method comparison; Lester et al. stop at 150
_SITES = {"prompt": "inputs", "prefix": "cache"}


def only_role(site: Site, role: str, method: str) -> str | None:
    """The refusal of a method that stands before the inputs (prompt) or the keys and values (prefix)."""
    if site.kind == "model" and site.role == role:
        return None
    return f"{method} takes the model as a whole, at the site {_SITES[role]!r}"

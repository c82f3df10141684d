"""Refusals that several methods share: each gives a phrase why a site cannot be taken, None where it can."""

from __future__ import annotations

from autopeft.records import Site

_DESCRIPTIONS = {
    "norm": "this is a norm",
    "embedding": "this is an embedding",
    "parameter": "these are experts in one parameter",
}


def only_maps(site: Site) -> str | None:
    """Linear maps in either storage order: `nn.Linear` and Conv1D."""
    return None if site.kind in ("linear", "conv1d") else f"takes linear maps, and {_DESCRIPTIONS[site.kind]}"


def only_linear(site: Site) -> str | None:
    """`nn.Linear` alone, for tuners that do not know Conv1D."""
    return "takes nn.Linear, and this is a Conv1D" if site.kind == "conv1d" else only_maps(site)


def only_plain_linear(site: Site) -> str | None:
    """`nn.Linear` without quantisation, for tuners that compute with the weights as they are stored.

    On bitsandbytes' maps they fail in peft 0.21.2, or count packed weights (reports/LOG.md, 2026-11-25).
    """
    if site.quantised:
        return "computes with the weights themselves, and these are quantised"
    return only_linear(site)

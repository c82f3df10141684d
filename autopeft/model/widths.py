"""The hidden size of a base model, on which the ranges of learning rates depend."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from statistics import median_low
from typing import Any

from autopeft.records import Site

_NAMES = ("hidden_size", "d_model", "n_embd", "dim")  # what the configs of transformers call it


def hidden_size(config: Any, sites: Sequence[Site]) -> int:
    """The hidden size by the config; where it names several or none, as the sites have it.

    A model of text and images has a hidden size for each; of those, the one counts that most sites take in,
    the larger one on ties. Without any it is the median of the sites' inputs, 0 without sites.
    """
    inputs = Counter(site.in_features for site in sites)
    named = {size for part in _configs(config) for size in _sizes(part)}
    if named:
        return max(named, key=lambda size: (inputs[size], size))
    return median_low(inputs.elements()) if inputs else 0


def _configs(config: Any) -> Iterable[Any]:
    """A config and the configs of its parts, such as `text_config`."""
    return [config, *(getattr(config, name, None) for name in getattr(config, "sub_configs", {}))]


def _sizes(config: Any) -> Iterable[int]:
    """The first hidden size that one config names; Swin and such name that of their last stage."""
    sizes = (getattr(config, name, None) for name in _NAMES)
    return [size for size in sizes if isinstance(size, int) and size > 0][:1]

"""CKA: how much a layer changes the representation, 1 - CKA of its input and its output.

Every site of a layer has its layer's value; sites outside the stack (a pooler, the last norm) have none. No
labels are read. An example's representation is the mean of its tokens' directions x / ‖x‖, padding left out.
A layer before or after which all examples look alike has the value 0, since nothing can be said of it. Few
examples in many dimensions raise CKA, so values of different numbers of examples do not compare. Two numbers
per example, layer and dimension are kept: 540 MB for 512 examples, 32 layers and 4096 dimensions.

Source: Ogawa et al. 2026, arXiv:2602.05988; linear CKA is Kornblith et al. 2019, arXiv:1905.00414. Where we
differ: they take one token, the first of an encoder and the last of a decoder, which before the first layer
is often the same in every example. We take directions because a few tokens of language models are a thousand
times as long as the others (Sun et al. 2024, arXiv:2402.17762) and would decide alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from autopeft.records import Site, layer_name
from autopeft.sensitivity.parts.layers import sites_by_layer
from autopeft.sensitivity.parts.score import SiteScore

# Share of the mean square up to which a variance counts as rounding of float32, (6e-8)² and a margin; chosen
# by hand.
_ROUNDING = 1e-12


class _Representations:
    """Each layer's inputs and outputs, a row for an example, on the CPU."""

    def __init__(self, sites: Sequence[Site]) -> None:
        self._sites = sites_by_layer(sites)
        self.rows: dict[str, list[tuple[Tensor, Tensor]]] = defaultdict(list)

    def update(self, site: Site, module: nn.Module, inputs: Tensor, gradient: Tensor) -> None:
        """Keep one batch of one layer; `gradient` is the layer's output."""
        layer = layer_name(site.name)
        assert layer is not None
        self.rows[layer].append((_mean_direction(inputs), _mean_direction(gradient)))

    def add(self, other: Any) -> None:
        """Add another reducer's examples to these."""
        for layer, rows in other.rows.items():
            self.rows[layer] += rows

    def values(self, n_examples: int) -> dict[str, float]:
        """Site name -> 1 - CKA of its layer."""
        values: dict[str, float] = {}
        for layer, rows in self.rows.items():
            inputs, outputs = map(torch.cat, zip(*rows, strict=True))
            change = max(0.0, 1 - similarity(inputs, outputs))
            values |= {site.name: change for site in self._sites[layer]}
        return values

    def profiles(self, n_examples: int) -> dict[str, tuple[float, ...]]:
        """No profiles."""
        return {}


def similarity(first: Tensor, second: Tensor) -> float:
    """Linear CKA of two representations of the same n examples, shapes (n, d) and (n, e), in [0, 1].

    1 where either is the same at every example.
    """
    x, y = (rows.double() - rows.double().mean(dim=0) for rows in (first, second))
    pairs = ((x, first), (y, second))
    if any(bool(rows.square().sum() <= _ROUNDING * raw.double().square().sum()) for rows, raw in pairs):
        return 1.0
    return float(_alignment(x, y) / (_alignment(x, x) * _alignment(y, y)).sqrt())


def _alignment(x: Tensor, y: Tensor) -> Tensor:
    """‖XᵀY‖², shape (), by the n × n or the d × e products, whichever are fewer."""
    if len(x) ** 2 <= x.shape[1] * y.shape[1]:
        return torch.sum((x @ x.T) * (y @ y.T))
    return (x.T @ y).square().sum()


def _mean_direction(rows: Tensor) -> Tensor:
    """Mean over the tokens of x / ‖x‖, shape (B, D), of rows (B, T, D) that are zero at padding."""
    directions = nn.functional.normalize(rows, dim=2)
    n_tokens = rows.any(dim=2).sum(dim=1, keepdim=True).clamp(min=1)
    return (directions.sum(dim=1) / n_tokens).cpu()


PART = SiteScore(
    name="cka",
    summary="how much the site's layer changes the representation, 1 - CKA",
    unit="share, in [0, 1]",
    needed_pass="layers",
    reducer=lambda sites, seed: _Representations(sites),
)

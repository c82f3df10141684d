"""Each site's weight in turn, for scores that look at no example."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from autopeft.model import plain_weight
from autopeft.records import Site
from autopeft.sensitivity.parts.gradients import expert_maps
from autopeft.sensitivity.passes.halves import SplitHalves
from autopeft.sensitivity.passes.visit import ScoredModel


def read_weights(halves: SplitHalves, scored: ScoredModel) -> None:
    """Give every weight once to the first half's reducers of the scores of weights.

    A weight in few bits is dequantised when its turn comes, and dropped after it. Sites whose weights are
    packed by a quantiser other than bitsandbytes are left out.
    """
    pairs = zip(halves.scores, halves.reducers[0], strict=True)
    reducers = [reducer for score, reducer in pairs if score.needed_pass == "weights"]
    if not reducers:
        return
    for site in scored.sites:
        scored.interrupt()
        holder = site.name.rpartition(".")[0] if site.kind == "parameter" else site.name
        module = scored.model.get_submodule(holder)
        with torch.no_grad():
            weight = _weight(site, module)
            if weight is not None:
                for reducer in reducers:
                    reducer.update(site, module, weight, weight.new_empty(0))


def _weight(site: Site, module: nn.Module) -> Tensor | None:
    """Shape (out, in), (out,) of a norm, or (experts, out, in); None where no plain weight can be read."""
    if site.kind != "parameter":
        weight = plain_weight(module)
        if weight is None:
            return None
        return weight.detach().T if isinstance(module, Conv1D) else weight.detach()
    experts = cast(Tensor, getattr(module, site.name.rpartition(".")[2])).detach()
    is_plain = experts.is_floating_point() and experts.element_size() > 1  # 8-bit floats have scales beside
    return expert_maps(site, module, experts) if is_plain else None

"""BitFit: the biases of linear layers are trained, as an added vector that starts at zero.

Ben Zaken et al. 2022, arXiv:2106.10199. An added bias moves exactly as the bias itself would, leaves the base
model unchanged, and merges. `peft`'s BEFT tuner adds it at `nn.Linear`; the biases of norms are those of
`ln_tuning`.
Where we differ: a search leaves the biases of keys out. They add the same number to all scores of a query,
which softmax cancels.
"""

from __future__ import annotations

import peft

from autopeft.methods._shared import only_linear, pattern_of
from autopeft.plugins import Method
from autopeft.types import Target


def _refusal(target: Target) -> str | None:
    """Refuse all but linear layers with a bias; one that is added elsewhere could not merge."""
    if (reason := only_linear(target)) is not None:
        return reason
    if not target.has_bias:
        return "there is no bias to train"
    # With rotary positions a key's bias has a small effect; a target module has no fact about positions.
    return "softmax cancels the bias of keys" if target.role in ("k", "pos_k") else None


PLUGIN = Method(
    name="bitfit",
    label="BitFit",
    short="bias",
    summary="the bias of a linear layer",
    formula="m",
    since_peft="0.20",
    learning_rate_range=(1e-3, 1.5e-2),
    learning_rate_source="best measured on MiniLM-L6 (384) 3.5e-3, chance at 2.2e-2; 1e-4, the only one "
    "tried in peft's method comparison (3072), trains little; 1e-4 to 1e-2 in the paper",
    step_time=0.94,
    refusal=_refusal,
    cost=lambda target, rank, options: target.out_features,
    configs=lambda adapters: (peft.BeftConfig(target_modules=pattern_of(adapters)),),
)

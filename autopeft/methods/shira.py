"""SHiRA: a few weights of a frozen linear layer are trained, chosen at random.

Bhardwaj et al. 2024, arXiv:2406.13175, with a random mask. A rank means as many weights as
LoRA of that rank has. Their places are the same in every run.
"""

from __future__ import annotations

from peft import ShiraConfig

from autopeft.methods._shared import one_config_per_rank, only_plain_linear
from autopeft.plugins import Method
from autopeft.types import Target


def _largest_rank(target: Target) -> int:
    """Return the largest rank for which a layer has enough weights; 0 if it has too few for rank 1."""
    return target.in_features * target.out_features // (target.in_features + target.out_features)


def _refusal(target: Target) -> str | None:
    if target.kind == "linear" and not _largest_rank(target):
        return f"trains at least {target.in_features + target.out_features} weights, and this layer has fewer"
    return only_plain_linear(target)


PLUGIN = Method(
    name="shira",
    label="SHiRA",
    summary="r (n + m) weights of the layer itself, at random places",
    formula="r (n + m)",
    learning_rate_range=(1.2e-3, 4.5e-2),
    learning_rate_source="best measured on MiniLM-L6 (384) about 1.6e-2, where 1 weight in 200 is trained; "
    "best published 3e-4 (peft's method comparison, 3072, 1 weight in 50)",
    step_time=1.06,
    refusal=_refusal,
    ranks=lambda target, options: range(1, _largest_rank(target) + 1),
    cost=lambda target, rank, options: rank * (target.in_features + target.out_features),
    configs=one_config_per_rank(
        lambda rank, targets: ShiraConfig(r=rank, random_seed=0, target_modules=targets)
    ),
)

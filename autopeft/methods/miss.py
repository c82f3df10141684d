"""MiSS: one trained matrix with rows shared among shards of the inputs.

Kang and Yin 2024, arXiv:2409.15371; once called Bone.
"""

from __future__ import annotations

from peft import MissConfig

from autopeft.methods._shared import doublings, one_config_per_rank, only_linear
from autopeft.plugins import Method

PLUGIN = Method(
    name="miss",
    label="MiSS",
    summary="one matrix of r rows, shared among shards of the inputs",
    formula="r m",
    learning_rate_range=(1.5e-4, 4.5e-3),
    learning_rate_source="best measured on MiniLM-L6 (384) 7e-4, chance at 2.7e-3, on MPNet (768) already "
    "at 1.1e-3; best published 1e-4 (the paper, and peft's method comparison, 3072)",
    step_time=0.95,
    refusal=only_linear,
    # From 2 on, since rank 1 sees the sum of all inputs: behind a LayerNorm that is next to constant.
    ranks=lambda target, options: doublings(target.in_features)[1:] or (1,),
    cost=lambda target, rank, options: rank * target.out_features,
    configs=one_config_per_rank(lambda rank, targets: MissConfig(r=rank, target_modules=targets)),
)

"""HiRA: a low-rank factor on the frozen weight itself, so that the update W * (B A) has full rank.

Huang et al. 2025, ICLR. `peft` 0.21.2 reads a `rank_pattern` here and ignores it, so a search gives all
target modules one rank; each rank of a user's own plan gets a config of its own.
"""

from __future__ import annotations

import peft

from autopeft.methods._shared import one_config_per_rank, only_linear_layers
from autopeft.plugins import Method

PLUGIN = Method(
    name="hira",
    label="HiRA",
    summary="elementwise product of the frozen weight and a low-rank matrix",
    formula="r (n + m)",
    since_peft="0.20",
    learning_rate_range=(8e-3, 0.24),
    learning_rate_source="best measured on MiniLM-L6 (384) 2.9e-2, chance at 0.18; on SmolLM2 (576) 5e-2 "
    "is better than 2e-2; best published 4.5e-3 (peft's method comparison, 3072)",
    rank_exponent=0.5,  # as LoRA's at a constant scale (research/2026-11-29-hira.md)
    step_time=1.37,
    starts_slowly=True,  # 48th of 84 after 30 steps, first after 200 (benchmarks/tabular, clinc-0.1)
    refusal=only_linear_layers,
    ranks=lambda target, options: range(1, min(target.in_features, target.out_features) + 1),
    cost=lambda target, rank, options: rank * (target.in_features + target.out_features),
    configs=one_config_per_rank(lambda rank, targets: peft.HiraConfig(r=rank, target_modules=targets)),
)

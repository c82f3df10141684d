"""Norm tuning: the weights and biases of normalization layers are trained.

Zhao et al. 2023, arXiv:2312.11420, through `peft`'s LN_TUNING. That tuner would copy any other module whole,
so norms are its only target modules.
"""

from __future__ import annotations

from peft import LNTuningConfig

from autopeft.methods._shared import pattern_of
from autopeft.plugins import Method

PLUGIN = Method(
    name="ln_tuning",
    label="norm tuning",
    short="norm",
    summary="weight and bias of a normalization layer",
    formula="m, with a bias 2 m",
    learning_rate_range=(2.5e-3, 6e-2),
    learning_rate_source="best measured on MiniLM-L6 (384) 1.3e-2, chance at 9e-2; 1e-4, the only one "
    "tried in peft's method comparison (3072), trains nothing",
    step_time=0.97,
    refusal=lambda target: None if target.kind == "norm" else "takes only norms",
    cost=lambda target, rank, options: target.out_features * (2 if target.has_bias else 1),
    configs=lambda adapters: (LNTuningConfig(target_modules=pattern_of(adapters)),),
)

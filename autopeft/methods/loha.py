"""LoHa: the elementwise product of two low-rank updates next to a frozen linear layer.

Hyeon-Woo et al. 2021 (FedPara), arXiv:2108.06098; LyCORIS, arXiv:2309.14859.
"""

from __future__ import annotations

from peft import LoHaConfig

from autopeft.methods._shared import lycoris_config, only_plain_linear
from autopeft.plugins import Method

PLUGIN = Method(
    name="loha",
    label="LoHa",
    summary="elementwise product of two low-rank updates: rank up to r squared",
    formula="2 r (n + m)",
    learning_rate_range=(2.5e-3, 8e-2),
    learning_rate_source="best measured on MiniLM-L6 (384) 1e-2, chance at 6e-2; on SmolLM2 (576) 1.7e-2 "
    "is better than 6.7e-3; 1e-4, the only one tried in peft's method comparison (3072), is far behind LoRA",
    step_time=1.48,
    refusal=only_plain_linear,
    # Up to half of the smaller side: from its square root on, a rank of r squared is full.
    ranks=lambda target, options: range(1, max(1, min(target.in_features, target.out_features) // 2) + 1),
    scale=lambda rank, **choices: 2.0,  # alpha = 2 r, the habit of the LoRA community
    cost=lambda target, rank, options: 2 * rank * (target.in_features + target.out_features),
    takes_rank_pattern=True,
    configs=lycoris_config(LoHaConfig),
)

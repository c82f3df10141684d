"""DeLoRA: a low-rank update whose strength is separate from its direction.

Bini et al. 2025, arXiv:2503.18225: normalized directions and one trained strength. The strength starts in
proportion to the rank. The first step already has the full strength, whatever the learning rate, since
directions are normalized.
"""

from __future__ import annotations

from collections.abc import Sequence

from peft import DeloraConfig, PeftConfig

from autopeft.methods._shared import by_pattern, only_plain_linear, pattern_of
from autopeft.plugins import Method
from autopeft.types import Adapter

# Per rank: 15 at rank 32, as in peft's method comparison. At one strength for all ranks a rank of 2
# would move the weight by sixteen times as much as one of 32, whatever the learning rate.
_STRENGTH = 15 / 32


def _configs(adapters: Sequence[Adapter]) -> tuple[PeftConfig, ...]:
    rank, ranks = by_pattern({adapter.target: adapter.rank for adapter in adapters})
    config = DeloraConfig(
        r=rank,
        delora_lambda=_STRENGTH * rank,
        target_modules=pattern_of(adapters),
        rank_pattern=ranks,
        lambda_pattern={pattern: _STRENGTH * r for pattern, r in ranks.items()},
    )
    return (config,)


PLUGIN = Method(
    name="delora",
    label="DeLoRA",
    summary="low-rank update of normalized directions and one trained strength",
    formula="r (n + m) + 1",
    learning_rate_range=(8e-4, 2.4e-2),
    learning_rate_source="best measured on MiniLM-L6 (384) 5.7e-3, good from 1e-4 to 3e-2; best published "
    "1e-3 (peft's method comparison, 3072, the same strength)",
    step_time=1.12,
    refusal=only_plain_linear,
    ranks=lambda target, options: range(1, min(target.in_features, target.out_features) + 1),
    cost=lambda target, rank, options: rank * (target.in_features + target.out_features) + 1 if rank else 0,
    takes_rank_pattern=True,
    configs=_configs,
)

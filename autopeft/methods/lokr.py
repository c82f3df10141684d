"""LoKr: the Kronecker product of a small matrix and a low-rank one next to a frozen linear layer.

Yeh et al. 2023, LyCORIS, arXiv:2309.14859; the first factor is whole, the second of rank r.
"""

from __future__ import annotations

from collections.abc import Sequence

from peft import LoKrConfig
from peft.tuners.lokr.layer import factorization

from autopeft.methods._shared import lycoris_config, only_plain_linear
from autopeft.plugins import Method, Options
from autopeft.types import Target


def _cost(target: Target, rank: int, options: Options) -> int:
    """Count the small matrix and the other: as two low-rank ones or, from half its larger side on, whole.

    `factorization` returns a smaller and a larger factor of a number, as equal as can be.
    """
    (a, b), (c, d) = factorization(target.out_features), factorization(target.in_features)
    return int(a * c + (rank * (b + d) if 2 * rank < max(b, d) else b * d)) if rank else 0


def _ranks(target: Target, options: Options) -> Sequence[int]:
    """List the ranks at which the second factor is low-rank and cheaper than whole; 1 if there is none."""
    (_, b), (_, d) = factorization(target.out_features), factorization(target.in_features)
    useful = [r for r in range(1, (max(b, d) + 1) // 2) if r * (b + d) < b * d]
    return useful or (1,)


PLUGIN = Method(
    name="lokr",
    label="LoKr",
    summary="Kronecker product of a small matrix (a × c) and a low-rank one (b × d); n = c d, m = a b",
    formula="a c + r (b + d)",
    learning_rate_range=(2e-3, 6e-2),
    learning_rate_source="best measured on MiniLM-L6 (384) 1e-2, chance at 9e-2; on SmolLM2 (576) 1.4e-2 "
    "is better than 5.5e-3; best published 3e-3 (peft's method comparison, 3072)",
    step_time=1.37,
    refusal=only_plain_linear,
    ranks=_ranks,
    scale=lambda rank, **choices: 2.0,  # alpha = 2 r, the habit of the LoRA community
    cost=_cost,
    takes_rank_pattern=True,
    configs=lycoris_config(LoKrConfig),
)

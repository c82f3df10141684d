"""C3A: an update made of circulant blocks, by fast Fourier transforms.

Chen et al. 2024, arXiv:2407.19342. The block size is gcd(in, out) / rank.
Where we differ from `peft`'s default: the kernel starts at zero, so that training starts at the base model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from peft import C3AConfig, PeftConfig

from autopeft.methods._shared import by_inner_pattern, only_plain_linear, targets_pattern
from autopeft.plugins import Method
from autopeft.types import Adapter, Target


def _gcd(target: Target) -> int:
    return math.gcd(target.in_features, target.out_features)


def _configs(adapters: Sequence[Adapter]) -> tuple[PeftConfig, ...]:
    blocks = {adapter.target: int(dict(adapter.options)["gcd"]) // adapter.rank for adapter in adapters}
    size, sizes = by_inner_pattern(blocks)
    targets = targets_pattern(blocks)
    return (C3AConfig(block_size=size, block_size_pattern=sizes, target_modules=targets, init_weights=True),)


PLUGIN = Method(
    name="c3a",
    label="C³A",
    summary="an update of circulant blocks of size b = gcd(n, m) / r",
    formula="n m / b",
    learning_rate_range=(7e-2, 2.0),
    learning_rate_source="best measured on MiniLM-L6 (384) 0.38, best published 0.3 (peft's method "
    "comparison, 3072): `peft` divides the update by the number of inputs, so that the width does not count",
    width_exponent=0.0,
    step_time=1.24,
    refusal=only_plain_linear,
    options=lambda target, **choices: {"gcd": _gcd(target)},  # divided by the rank it is the block size
    ranks=lambda target, options: [rank for rank in range(1, _gcd(target) + 1) if _gcd(target) % rank == 0],
    cost=lambda target, rank, options: rank * target.in_features * target.out_features // _gcd(target),
    takes_rank_pattern=True,
    configs=_configs,
)

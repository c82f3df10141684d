"""OFT: the inputs of a frozen linear layer are rotated in blocks.

Qiu et al. 2023, arXiv:2306.07280, with Cayley-Neumann rotations; the rank is the block size.
"""

from __future__ import annotations

from collections.abc import Sequence

from peft import OFTConfig

from autopeft.methods._shared import one_config_per_rank, only_linear
from autopeft.plugins import Method, Options
from autopeft.types import Target

_LARGEST_BLOCK = 128  # inputs; heuristic


def _refusal(target: Target) -> str | None:
    """Refuse all but `nn.Linear` with inputs that divide into blocks of two or more."""
    if target.kind == "linear" and not _ranks(target, {}):
        return f"rotates blocks of 2 to {_LARGEST_BLOCK} inputs, and none divides {target.in_features}"
    return only_linear(target)


def _ranks(target: Target, options: Options) -> Sequence[int]:
    """List the powers of two that divide the inputs, since a config has one block size; else all divisors."""
    sizes = [size for size in range(2, _LARGEST_BLOCK + 1) if target.in_features % size == 0]
    return [size for size in sizes if size & (size - 1) == 0] or sizes


PLUGIN = Method(
    name="oft",
    label="OFT",
    summary="rotation of the inputs in blocks of r",
    formula="n (r - 1) / 2",
    learning_rate_range=(3e-4, 1e-2),
    learning_rate_source="best measured on MiniLM-L6 (384) 2e-3, as good up to 1e-2; best published 1e-4 "
    "(peft's method comparison, 3072, the only one tried)",
    step_time=1.27,
    refusal=_refusal,
    ranks=_ranks,
    # A skew matrix for each block.
    cost=lambda target, rank, options: target.in_features * (rank - 1) // 2 if rank else 0,
    configs=one_config_per_rank(
        lambda rank, targets: OFTConfig(r=0, oft_block_size=rank, target_modules=targets)
    ),
)

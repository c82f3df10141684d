"""Random generators for a score's draws, and leading singular values without a full decomposition."""

from __future__ import annotations

import zlib

import torch
from torch import Tensor

_BLOCK, _ITERATIONS = 40, 2  # for 16 values; chosen by hand, tests compare with numpy's SVD


def generator(seed: int, *names: str | int) -> torch.Generator:
    """A generator on the CPU, seeded by a seed and by names such as a site's."""
    text = "/".join(map(str, (seed, *names)))
    return torch.Generator().manual_seed(zlib.crc32(text.encode()))


def leading_values(matrix: Tensor, n_values: int) -> Tensor:
    """The `n_values` (up to 16) largest singular values, descending; fewer where the matrix is smaller.

    Source: subspace iteration, Halko et al. 2011, arXiv:0909.4061, algorithm 4.4; our start is fixed.
    """
    if min(matrix.shape) > _BLOCK:
        n_rows = len(matrix)
        basis = torch.randn((n_rows, _BLOCK), generator=generator(0, "start", n_rows)).to(matrix)
        for _ in range(_ITERATIONS):
            basis = torch.linalg.qr(matrix @ (matrix.T @ basis)).Q
        matrix = basis.T @ matrix
    values: Tensor = torch.linalg.svdvals(matrix)[:n_values]
    return values

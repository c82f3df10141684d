"""The leading singular values of a matrix, without a full decomposition."""

from __future__ import annotations

import torch
from torch import Tensor

from autopeft.sensitivity.parts.seeds import generator

_BLOCK, _ITERATIONS = 40, 2  # for 16 values; chosen by hand, tests compare with numpy's SVD


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

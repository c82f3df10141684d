"""Masks from 16 bits: their share, their independence, and torch's own kernel afterwards."""

from __future__ import annotations

import math

import pytest
import torch

from autopeft.train.dropout import quick_masks

CPU = torch.device("cpu")
N = 400_000


def drawn(p: float, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    torch.manual_seed(seed)
    return torch.empty(N // 7, 7, dtype=dtype).bernoulli_(p)


@pytest.mark.parametrize("p", [0.0, 2**-16, 0.1, 0.5, 0.9, 0.99999, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.bool])
def test_share_of_ones_is_the_probability(p: float, dtype: torch.dtype) -> None:
    with quick_masks(CPU):
        mask = drawn(p, dtype=dtype)
    assert set(mask.unique().tolist()) <= {0, 1}
    sigma = math.sqrt(max(p * (1 - p), 2**-17) / mask.numel())
    assert abs(mask.double().mean().item() - p) <= 5 * sigma + 2**-17


def test_masks_are_independent_of_their_neighbours_and_between_draws() -> None:
    with quick_masks(CPU):
        first = drawn(0.3).flatten().double()
        second = torch.empty(N // 7, 7).bernoulli_(0.3).flatten().double()
    for lag in range(1, 9):  # 4 masks come from one word of the generator
        assert abs(torch.corrcoef(torch.stack((first[lag:], first[:-lag])))[0, 1]) < 5 / math.sqrt(N)
    assert abs(torch.corrcoef(torch.stack((first, second)))[0, 1]) < 5 / math.sqrt(N)


def test_the_seed_decides_the_masks_and_none_is_kept_outside() -> None:
    outside = drawn(0.5)
    with quick_masks(CPU):
        inside, again, other = drawn(0.5), drawn(0.5), drawn(0.5, seed=1)
        with quick_masks(CPU):
            assert torch.equal(drawn(0.5), inside)
        assert torch.equal(drawn(0.5), inside)
    assert torch.equal(inside, again)
    assert not torch.equal(inside, other)
    assert not torch.equal(inside, outside)
    assert torch.equal(drawn(0.5), outside)

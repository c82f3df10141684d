"""The largest and the smallest singular value of a weight, and the squared norm, in float64."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from autopeft.model import on_float64_device
from autopeft.sensitivity.parts.gradients import cache_last_call

_COLUMNS = 1024  # that are cast to float64 at once (32 MiB at 4096 rows); chosen by hand


class Extremes(NamedTuple):
    """Singular values of a weight, shape (), or of each of its experts, shape (experts,); float64.

    `smallest` is 0 where it cannot be told from 0.
    """

    largest: Tensor
    smallest: Tensor
    squared_norm: Tensor


def _extremes(weight: Tensor) -> Extremes:
    weight = on_float64_device(weight)
    if weight.ndim == 3:
        return Extremes(*map(torch.stack, zip(*map(_extremes, weight), strict=True)))
    gram = _gram(weight)
    if not bool(torch.isfinite(gram).all()):  # eigvalsh would raise; the pass names the site of a nan
        return Extremes(*gram.new_full((3,), torch.nan))
    values = torch.linalg.eigvalsh(gram)
    rounding = len(values) * torch.finfo(values.dtype).eps * values[-1]
    smallest = torch.where(values[0] > rounding, values[0], torch.zeros_like(rounding))
    return Extremes(values[-1].clamp(min=0).sqrt(), smallest.sqrt(), gram.trace())


def _gram(weight: Tensor) -> Tensor:
    """Inner products of the rows, or of the columns where these are fewer, a block at a time in float64."""
    wide = weight if weight.shape[0] <= weight.shape[1] else weight.T
    gram = wide.new_zeros((len(wide), len(wide)), dtype=torch.float64)
    for block in torch.split(wide, _COLUMNS, dim=1):
        columns = block.double()
        gram.addmm_(columns, columns.T)
    return gram


# Scores that are asked for together get the same tensor in turn, and one decomposition serves them all.
extreme_values = cache_last_call(_extremes)

"""What linear maps get as inputs, from a few batches: the principal directions and the root mean square."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, cast

import torch
from peft import PeftModel
from torch import nn

from autopeft.model.devices import forked_rng, free_bytes

_EXACT_INPUTS = 1024  # inputs up to which all eigenvectors are computed; chosen by hand
_OVERSAMPLING = 16  # for wider inputs: directions beyond the rank, and iterations; chosen by hand so that
_ITERATIONS = 8  # the inputs' share in them is right to 0.1 % (tests/model/test_input_statistics.py)
_SQUARES_SHARE = 0.5  # of the device's free memory, for sums of squares; chosen by hand

Batch = Mapping[str, torch.Tensor]
Call = Callable[[nn.Module, Any], object]


def input_directions(
    module: nn.Module, batches: Sequence[Batch], ranks: Mapping[str, int], *, call: Call
) -> dict[str, torch.Tensor]:
    """Find the directions in which the inputs of linear maps are largest, without padding.

    Sums are in float32, also under autocast. If those of all maps do not fit into memory (39 GB for 8 billion
    weights), the batches go through the model several times, each time for some of the maps.

    Args:
        module: The base model, in eval mode.
        batches: What `call` takes; `attention_mask` (B, T) marks padding.
        ranks: Site name -> number of directions, at most the inputs of the map.
        call: Runs the model on a batch, such as the task's loss.

    Returns:
        Site name -> orthonormal rows, shape (rank, in_features), the largest first: the right singular
        vectors of all inputs stacked. Signs are fixed: the largest entry of a row is positive. A map that no
        batch reaches is missing.

    Source:
        The initialiser of EVA, Paischl et al. 2024, arXiv:2410.07170, without its redistribution of ranks,
        which would change what a plan costs.
    """
    directions: dict[str, torch.Tensor] = {}
    open_ranks = dict(ranks)
    while open_ranks and (squares := _squares(module, batches, open_ranks, call=call)):
        while squares:  # each is freed before the next one is decomposed
            name, square = squares.popitem()
            directions[name] = leading_eigenvectors(square, open_ranks.pop(name))
    return directions


def _squares(
    module: nn.Module, batches: Sequence[Batch], names: Iterable[str], *, call: Call
) -> dict[str, torch.Tensor]:
    """Sum x xᵀ over the inputs of as many maps as fit into memory, at least one, in float32."""
    squares: dict[str, torch.Tensor] = {}
    room: float | None = None

    def add(name: str, rows: torch.Tensor) -> None:
        nonlocal room
        if name in squares:
            squares[name] += rows.T @ rows
            return
        if room is None:
            room = _SQUARES_SHARE * free_bytes(rows.device)
        n_bytes = rows.shape[1] ** 2 * rows.element_size()
        # `room` only falls: a map that is not summed from its first batch on is never summed in this pass.
        if not squares or n_bytes <= room:
            squares[name] = 0 + rows.T @ rows
            room -= n_bytes

    _watch(module, batches, names, add, call=call)
    return squares


def input_rms(
    module: nn.Module,
    batches: Sequence[Batch],
    names: Iterable[str],
    *,
    call: Call,
) -> dict[str, float]:
    """Measure the root mean square of the inputs of linear maps, by name; arguments as in `input_directions`.

    A map that no batch reaches is missing in the result.
    """
    sums: dict[str, tuple[float, int]] = {}

    def add(name: str, rows: torch.Tensor) -> None:
        total, count = sums.get(name, (0.0, 0))
        sums[name] = total + float(rows.square().sum()), count + rows.numel()

    _watch(module, batches, names, add, call=call)
    return {name: math.sqrt(total / max(1, count)) for name, (total, count) in sums.items()}


def _watch(
    module: nn.Module,
    batches: Sequence[Batch],
    names: Iterable[str],
    add: Callable[[str, torch.Tensor], None],
    *,
    call: Call,
) -> None:
    """Run the model, and call `add` with each map's inputs of every batch, shape (N, in_features)."""
    mask: torch.Tensor | None = None

    def hook(name: str, _: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        rows = inputs[0]
        if mask is not None and rows.shape[:-1] == mask.shape:
            rows = rows[mask.bool()]
        with torch.autocast(rows.device.type, enabled=False):  # which would round products to bfloat16
            add(name, rows.reshape(-1, rows.shape[-1]).float())

    handles = [module.get_submodule(name).register_forward_pre_hook(partial(hook, name)) for name in names]
    try:
        with torch.no_grad():
            for batch in batches:
                mask = batch.get("attention_mask")
                call(module, batch)
    finally:
        for handle in handles:
            handle.remove()


def leading_eigenvectors(square: torch.Tensor, rank: int) -> torch.Tensor:
    """The leading eigenvectors of a symmetric matrix as rows, shape (rank, n); largest entry positive."""
    n_inputs = len(square)
    if square.device.type == "mps":  # where torch decomposes nothing
        square = square.cpu()
    if n_inputs <= _EXACT_INPUTS:
        rows = torch.linalg.eigh(square.double()).eigenvectors.flip(-1).T[:rank].float()
    else:
        n_kept = min(n_inputs, rank + _OVERSAMPLING)
        # Under autocast the products are bfloat16, which no GPU decomposes.
        with forked_rng(square.device), torch.autocast(square.device.type, enabled=False):
            torch.manual_seed(0)
            rows = torch.svd_lowrank(square, q=n_kept, niter=_ITERATIONS)[0].T[:rank]
    largest = rows.gather(1, rows.abs().argmax(dim=1, keepdim=True))
    return cast(torch.Tensor, rows * largest.sign())


def set_initial_directions(model: PeftModel, directions: Mapping[str, torch.Tensor]) -> None:
    """Set LoRA's A at each site to the given rows; the output stays, since B starts at zero."""
    for site, rows in directions.items():
        for down in cast(Any, model.get_base_model().get_submodule(site)).lora_A.values():
            down.weight.data.copy_(rows)

"""Principal directions of what linear maps are given, from a few batches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from peft import PeftModel
from torch import nn

_WHOLE = 1024  # inputs up to which all directions are found at once; chosen by hand
_OVERSAMPLING = 16
_ITERATIONS = 8


def input_directions(
    module: nn.Module, batches: Sequence[Mapping[str, torch.Tensor]], ranks: Mapping[str, int]
) -> dict[str, torch.Tensor]:
    """The directions in which the inputs of some linear maps are largest; padding does not count.

    Args:
        module: The base model, in eval mode; left as found.
        batches: What it is called with, `labels` apart; `attention_mask` (B, T) tells padding from tokens.
        ranks: Site name -> how many directions, at most as many as the map has inputs.

    Returns:
        Site name -> orthonormal rows, shape (rank, in_features), the largest first: the right singular
        vectors of all inputs stacked. Signs are fixed: the largest entry of a row is positive.

    Source:
        The initialiser of EVA, Paischl et al. 2024, arXiv:2410.07170, without its redistribution of ranks,
        which would change what a plan costs.
    """
    squares: dict[str, torch.Tensor] = {}
    with torch.no_grad(), _watched(module, ranks, squares) as seen:
        for batch in batches:
            seen["mask"] = batch.get("attention_mask")
            module(**{name: value for name, value in batch.items() if name != "labels"})
    return {name: _largest(squares[name], rank) for name, rank in ranks.items()}


@contextmanager
def _watched(
    module: nn.Module, names: Mapping[str, int], squares: dict[str, torch.Tensor]
) -> Iterator[dict[str, Any]]:
    """Hooks that add up the second moments of the inputs, shape (in_features, in_features)."""
    seen: dict[str, Any] = {"mask": None}

    def watch(name: str) -> Any:
        def hook(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            rows = _tokens(inputs[0], seen["mask"]).float()
            squares[name] = squares.get(name, 0) + rows.T @ rows

        return hook

    handles = [module.get_submodule(name).register_forward_pre_hook(watch(name)) for name in names]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _tokens(inputs: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Rows that count, shape (N, in_features)."""
    if mask is not None and inputs.shape[:-1] == mask.shape:
        return inputs[mask.bool()]
    return inputs.reshape(-1, inputs.shape[-1])


def _largest(square: torch.Tensor, rank: int) -> torch.Tensor:
    """The leading eigenvectors of a symmetric matrix, as rows."""
    n_inputs = len(square)
    if n_inputs <= _WHOLE:
        rows = torch.linalg.eigh(square.double()).eigenvectors.flip(-1).T[:rank].float()
    else:
        with torch.random.fork_rng(devices=[square.device] if square.is_cuda else []):
            torch.manual_seed(0)
            n_kept = min(n_inputs, rank + _OVERSAMPLING)
            rows = torch.svd_lowrank(square, q=n_kept, niter=_ITERATIONS)[0].T[:rank]
    largest = rows.gather(1, rows.abs().argmax(dim=1, keepdim=True))
    return cast(torch.Tensor, rows * largest.sign())


def point(model: PeftModel, directions: Mapping[str, torch.Tensor]) -> None:
    """Let LoRA adapters look where they are told at first; B is zero, so that the model stays what it was."""
    for site, rows in directions.items():
        layer = cast(Any, model.get_base_model().get_submodule(site))
        for down in layer.lora_A.values():
            down.weight.data.copy_(rows)

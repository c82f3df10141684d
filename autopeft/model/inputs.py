"""What linear maps are given, from a few batches: principal directions, and how large it is."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from peft import PeftModel
from torch import nn

_WHOLE = 1024  # inputs up to which all directions are found at once; chosen by hand
_OVERSAMPLING = 16
_ITERATIONS = 8

Batch = Mapping[str, torch.Tensor]


def input_directions(
    module: nn.Module, batches: Sequence[Batch], ranks: Mapping[str, int]
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

    def add(name: str, rows: torch.Tensor) -> None:
        squares[name] = squares.get(name, 0) + rows.T @ rows

    _watch(module, batches, ranks, add, call=_without_labels)
    return {name: _largest(squares[name], rank) for name, rank in ranks.items()}


def input_rms(
    module: nn.Module,
    batches: Sequence[Batch],
    names: Iterable[str],
    *,
    call: Callable[[nn.Module, Any], object],
) -> dict[str, float]:
    """The root mean square of the inputs of some linear maps; padding does not count.

    Args:
        module: The base model, in eval mode; left as found.
        batches: What it is called with; `attention_mask` (B, T) tells padding from tokens.
        names: Of the maps. Those that are not reached are missing in what is returned.
        call: Runs the model on a batch, such as the task's loss.
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
    call: Callable[[nn.Module, Any], object],
) -> None:
    """Call the model, and `add` with each map's inputs of every batch, shape (N, in_features)."""
    with torch.no_grad(), _hooked(module, names, add) as seen:
        for batch in batches:
            seen["mask"] = batch.get("attention_mask")
            call(module, batch)


def _without_labels(module: nn.Module, batch: Batch) -> object:
    return module(**{name: value for name, value in batch.items() if name != "labels"})


@contextmanager
def _hooked(
    module: nn.Module, names: Iterable[str], add: Callable[[str, torch.Tensor], None]
) -> Iterator[dict[str, Any]]:
    """Hooks that read the mask of the batch from what is yielded."""
    seen: dict[str, Any] = {"mask": None}

    def watch(name: str) -> Any:
        def hook(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            add(name, _tokens(inputs[0], seen["mask"]).float())

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

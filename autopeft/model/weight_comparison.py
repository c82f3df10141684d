"""Sums and digests of a model's weights, by which a change or another base model is detected."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor, nn

from autopeft.model.linear_layers import n_bits
from autopeft.types.text import digest_of

_CHUNK_NUMBERS = 2**24  # of a tensor that are rounded at once; heuristic


def bit_sums(module: nn.Module) -> dict[str, int]:
    """Sum the bits of each tensor of a module as integers: two equal dictionaries mean equal weights.

    A sum runs on the tensor's device at the speed of its memory. Values that swap places keep it.
    """
    return {name: _bit_sum(tensor) for name, tensor in _tensors_of(module).items()}


class TensorWatch:
    """Detects changes of the weights that a module had when the watch was made."""

    def __init__(self, module: nn.Module) -> None:
        self._sums = bit_sums(module)

    def first_change(self, module: nn.Module) -> str | None:
        """Return the name of a tensor that was changed, added or removed; None without one."""
        sums = bit_sums(module)
        names = sorted(sums.keys() | self._sums.keys())
        return next((name for name in names if sums.get(name) != self._sums.get(name)), None)


def weight_digests(module: nn.Module, *, exclude: Collection[str] = ()) -> dict[str, str]:
    """Digest the weights outside the modules of `exclude`, rounded to bfloat16.

    A model thus has the same digest in float32 and in bfloat16. Weights in float16 are rounded twice, and
    quantized layers are left out. Such digests have names of their own, as they cannot be compared with
    others.
    """
    tensors = _tensors_of(module, exclude=exclude)
    sums = {}
    for name, tensor in tensors.items():
        pieces = torch.split(tensor.contiguous().view(-1), _CHUNK_NUMBERS)
        sums[name] = [*tensor.shape, *(_bit_sum(_rounded(piece)) for piece in pieces)]
    if any(map(n_bits, module.modules())):
        label = "weights outside quantized layers"
    elif any(tensor.dtype == torch.float16 for tensor in tensors.values()):
        label = "weights rounded from float16"
    else:
        label = "weights rounded to bfloat16"
    return {label: digest_of(sums)}


def _rounded(tensor: Tensor) -> Tensor:
    return tensor.to(torch.bfloat16) if tensor.is_floating_point() else tensor


def _bit_sum(tensor: Tensor) -> int:
    octets = tensor.contiguous().view(-1).view(torch.uint8)
    if octets.storage_offset() % 8:  # torch only views aligned bytes as wider integers
        octets = octets.clone()
    n_whole = octets.numel() // 8 * 8
    return int(octets[:n_whole].view(torch.int64).sum()) + int(octets[n_whole:].sum())


def _tensors_of(module: nn.Module, *, exclude: Collection[str] = ()) -> dict[str, Tensor]:
    """List the weights and the buffers of a checkpoint by name, without those of quantized layers.

    A device packs quantized weights in its own way, a CPU when they are first used. Buffers that no
    checkpoint holds may change as a model runs: LongRoPE writes frequencies for short or long texts into one.
    """
    quantized = [name for name, child in module.named_modules() if n_bits(child)]
    left_out = tuple(f"{name}." for name in (*exclude, *quantized))
    computed = {
        f"{prefix}.{name}".lstrip(".")
        for prefix, child in module.named_modules()
        for name in child._non_persistent_buffers_set
    }
    tensors = [*module.named_parameters(remove_duplicate=False), *module.named_buffers()]
    return {
        name: tensor.detach()
        for name, tensor in sorted(tensors)
        if name not in computed and not name.startswith(left_out)
    }

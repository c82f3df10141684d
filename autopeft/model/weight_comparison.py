"""Whether the weights of a model are unchanged, and whether they are those of its checkpoint."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers.utils import cached_file

from autopeft.model.linear_layers import n_bits
from autopeft.types.plans import LAYER
from autopeft.types.text import digest_of

_CHUNK_NUMBERS = 2**24  # of a tensor that are rounded at once; heuristic
_WHOLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_OLD_ENDS = {"gamma": "weight", "beta": "bias"}  # of norms in old checkpoints
_UNREADABLE = (OSError, ValueError, LookupError, SafetensorError)

log = logging.getLogger(__name__)


def bit_sums(module: nn.Module) -> dict[str, int]:
    """Sum the bits of each tensor of a module as integers: two equal dictionaries mean equal weights.

    A sum runs on the tensor's device at the speed of its memory. Values that swap places keep it.
    """
    return {name: _bit_sum(tensor) for name, tensor in _tensors_of(module).items()}


def first_change(module: nn.Module, before: Mapping[str, int]) -> str | None:
    """Return the first tensor that was changed, added or removed since the `bit_sums` before."""
    now = bit_sums(module)
    return next((name for name in sorted({*now, *before}) if now.get(name) != before.get(name)), None)


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
        dtype = torch.bfloat16 if tensor.is_floating_point() else tensor.dtype
        sums[name] = [*tensor.shape, *(_bit_sum(piece.to(dtype)) for piece in pieces)]
    if any(map(n_bits, module.modules())):
        label = "weights outside quantized layers"
    elif any(tensor.dtype == torch.float16 for tensor in tensors.values()):
        label = "weights rounded from float16"
    else:
        label = "weights rounded to bfloat16"
    return {label: digest_of(sums)}


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
    left_out = _starts(module, exclude)
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


def _starts(module: nn.Module, exclude: Collection[str]) -> tuple[str, ...]:
    """List how the names of parameters begin that belong to `exclude` or to a quantized layer."""
    quantized = [name for name, child in module.named_modules() if n_bits(child)]
    return tuple(f"{name}." for name in (*exclude, *quantized))


def compare_with_checkpoint(
    module: nn.Module, source: str, *, exclude: Collection[str]
) -> tuple[frozenset[str], str | None]:
    """Compare the parameters outside the head with the safetensors checkpoint that they were loaded from.

    Returns the parameters that the checkpoint does not have, so that each load draws them, and None. Or no
    parameters and the name of one that differs: the module may have been trained since it was loaded. Nothing
    is downloaded. Quantized layers are not compared, nor is a checkpoint that cannot be read or has other
    names for the tensors of a layer. `source` is a folder or hub id; `exclude` lists the modules of the head.
    """
    left_out = _starts(module, exclude)
    held = {name: p.detach() for name, p in module.named_parameters() if not name.startswith(left_out)}
    missing = set(held)
    try:
        for name, stored in _stored_tensors(module, source, held):
            missing.discard(name)
            tensor = held[name].cpu()
            if tensor.shape != stored.shape or not torch.equal(tensor, stored.to(tensor.dtype)):
                return frozenset(), name
    except _UNREADABLE as error:
        log.debug("The checkpoint %s cannot be compared: %s", source, error)
        return frozenset(), None
    is_renamed = any(LAYER.search(name) for name in missing)
    return frozenset() if is_renamed else frozenset(missing), None


def _stored_tensors(module: nn.Module, source: str, names: Collection[str]) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of a checkpoint that a model has, by their names in the model."""
    prefix = f"{getattr(module, 'base_model_prefix', '')}."

    def name_of(key: str) -> str | None:
        stem, dot, end = key.rpartition(".")
        name = f"{stem}{dot}{_OLD_ENDS.get(end, end)}"
        return next((n for n in (name, prefix + name, name.removeprefix(prefix)) if n in names), None)

    for file in _checkpoint_files(source, revision=getattr(module.config, "_commit_hash", None)):
        with safe_open(file, framework="pt") as stored:
            for key in stored.keys():  # noqa: SIM118 - not a dictionary
                if (name := name_of(key)) is not None:
                    yield name, stored.get_tensor(key)


def _checkpoint_files(source: str, *, revision: str | None) -> list[Path]:
    """List the files of a checkpoint, from its folder or from the cache of the hub."""

    def find(name: str) -> Path:
        return Path(cached_file(source, name, revision=revision, local_files_only=True))

    try:
        return [find(_WHOLE)]
    except OSError:
        shards = json.loads(find(_INDEX).read_bytes())["weight_map"]
        return [find(name) for name in sorted(set(shards.values()))]

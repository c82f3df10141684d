"""Whether the weights of a model are as they were, and whether they are those of its checkpoint."""

from __future__ import annotations

import hashlib
import json
import logging
import pickle
from collections.abc import Callable, Collection, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from huggingface_hub import try_to_load_from_cache
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from autopeft.model.linear_maps import n_bits
from autopeft.records.roles import LAYER

_SAMPLE = 4096  # numbers of a tensor that the quick look reads; chosen by hand
_CHUNK_BYTES = 2**26  # that are copied at once; chosen by hand
_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes of a number
_WHOLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_WHOLE_BIN, _INDEX_BIN = "pytorch_model.bin", "pytorch_model.bin.index.json"
_OLD_ENDS = {"gamma": "weight", "beta": "bias"}  # of norms in old checkpoints
_UNREADABLE = (OSError, ValueError, LookupError, RuntimeError, SafetensorError, pickle.UnpicklingError)

log = logging.getLogger(__name__)


class _Seen(NamedTuple):
    """What is known of a tensor without reading it; `version` counts its changes in place."""

    name: str
    pointer: int
    shape: torch.Size
    dtype: torch.dtype
    version: int


class TensorWatch:
    """Tells whether a module still has the tensors that it had, reading a small part of them.

    A change is found if torch counted it (in place, by any operation), if it replaced a tensor, or if it
    touched one of about 4,096 numbers of each tensor, evenly spaced. A change through `.data` of other
    numbers is left to `digest_of`. LoRA on experts makes torch count changes that are none, so a tensor with
    a new count is summed in full.
    """

    def __init__(self, module: nn.Module) -> None:
        """Read every tensor once."""
        tensors = _tensors_of(module)
        self._seen = [_seen(name, tensor) for name, tensor in tensors]
        self._sums = _stacked([_sum(tensor) for _, tensor in tensors])
        self._samples = _stacked([_sum(tensor, _SAMPLE) for _, tensor in tensors])

    def first_change(self, module: nn.Module) -> str | None:
        """Name of a parameter or buffer that is not as it was; None if none was found."""
        tensors = _tensors_of(module)
        now = [_seen(name, tensor) for name, tensor in tensors]
        if len(now) != len(self._seen):
            return min({seen.name for seen in now} ^ {seen.name for seen in self._seen})
        for before, after in zip(self._seen, now, strict=True):
            if before[:-1] != after[:-1]:  # another tensor has taken the place
                return before.name
        counted = [i for i, seen in enumerate(now) if seen.version != self._seen[i].version]
        samples = _stacked([_sum(tensor, _SAMPLE) for _, tensor in tensors])
        sums = self._sums.clone()
        for i in counted:
            sums[i] = _sum(tensors[i][1])
        odd = ((samples != self._samples) | (sums != self._sums)).nonzero().flatten().tolist()
        self._seen = now
        return now[odd[0]].name if odd else None


def digest_of(module: nn.Module, *, exclude: Collection[str] = ()) -> str:
    """SHA-256 of the name and value of every parameter and buffer, read a chunk at a time.

    `exclude` names modules that are left out.
    """
    digest, left_out = hashlib.sha256(), tuple(f"{name}." for name in exclude)
    for name, tensor in sorted(module.state_dict().items()):
        if name.startswith(left_out):
            continue
        digest.update(name.encode())
        content = _flat(tensor).view(torch.uint8)
        for start in range(0, content.numel(), _CHUNK_BYTES):
            digest.update(content[start : start + _CHUNK_BYTES].cpu().numpy().data)
    return digest.hexdigest()


def sample_digest(module: nn.Module, *, exclude: Collection[str] = ()) -> str | None:
    """SHA-256 of about 4,096 numbers of every parameter, rounded to bfloat16; None for a quantised model.

    It is the same in whichever plain format a checkpoint is held, and takes no time. `exclude` names modules
    that are left out.
    """
    digest, left_out = hashlib.sha256(), tuple(f"{name}." for name in exclude)
    for name, parameter in sorted(module.named_parameters()):
        if name.startswith(left_out):
            continue
        if not parameter.is_floating_point() or n_bits(module.get_submodule(name.rpartition(".")[0])):
            return None
        flat = _flat(parameter)
        numbers = flat[:: (flat.numel() // _SAMPLE) | 1].cpu().to(torch.bfloat16)
        digest.update(f"{name} {tuple(parameter.shape)}".encode())
        digest.update(numbers.contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _tensors_of(module: nn.Module) -> list[tuple[str, Tensor]]:
    """Parameters and buffers but those that no checkpoint holds, which a model may compute as it runs.

    LongRoPE writes the frequencies for short or long texts into such a buffer.
    """
    computed = {
        f"{prefix}.{name}".lstrip(".")
        for prefix, part in module.named_modules()
        for name in part._non_persistent_buffers_set
    }
    buffers = ((name, buffer) for name, buffer in module.named_buffers() if name not in computed)
    tensors: list[tuple[str, Tensor]] = [*module.named_parameters(), *buffers]
    return [(name, tensor.detach()) for name, tensor in tensors]


def _seen(name: str, tensor: Tensor) -> _Seen:
    return _Seen(name, tensor.data_ptr(), tensor.shape, tensor.dtype, tensor._version)


def _sum(tensor: Tensor, n_numbers: int | None = None) -> Tensor:
    """Sum of the bits of a tensor as whole numbers, exact; of about `n_numbers` evenly spaced ones."""
    flat = _flat(tensor)
    if n_numbers is not None:
        # An odd step: an even one would stay in few columns of a matrix.
        flat = flat[:: (flat.numel() // n_numbers) | 1]
    if flat.is_complex():
        flat = torch.view_as_real(flat).flatten()
    integers = flat.view(_INTEGERS[flat.element_size()])
    # On a CPU torch copies what it sums into the type of the sum: 2 GB for the embeddings of 128,256 words.
    pieces = torch.split(integers, _CHUNK_BYTES // 8)
    return torch.stack([piece.sum(dtype=torch.int64) for piece in pieces]).sum()


def _flat(tensor: Tensor) -> Tensor:
    return tensor.detach().contiguous().reshape(-1)


def _stacked(sums: list[Tensor]) -> Tensor:
    """Sums of tensors on one or more devices, on the first one's; no number is copied to the CPU."""
    return torch.stack([total.to(sums[0].device) for total in sums]) if sums else torch.zeros(0)


def difference_from_checkpoint(module: nn.Module, source: str, *, exclude: Collection[str]) -> str | None:
    """The first parameter outside the head that is another than in a checkpoint; None where none is known.

    Files are read one tensor at a time, and nothing is downloaded. What cannot be compared is no difference:
    a checkpoint that is not here or is damaged, maps in few bits, layers whose tensors it names otherwise.

    Args:
        module: A transformers model.
        source: The folder or hub id that it was loaded from.
        exclude: Modules of the head.
    """
    wanted = _parameters(module, exclude)
    missing = dict.fromkeys(wanted)
    try:
        for name, read in _stored(module, source, wanted):
            missing.pop(name, None)
            held, stored = wanted[name], read()
            if held.shape != stored.shape or not torch.equal(held.cpu(), stored.to(held.dtype)):
                return name
    except _UNREADABLE as error:
        log.debug("The checkpoint %s cannot be compared: %s", source, error)
        return None
    return next((name for name in missing if not LAYER.search(name)), None)


def lacking_in_checkpoint(module: nn.Module, source: str, *, exclude: Collection[str]) -> frozenset[str]:
    """Parameters outside the head that a checkpoint lacks, such as a pooler's, which each load draws anew.

    None where the checkpoint is not here or names the tensors of a layer otherwise, or where the module has
    another difference: it may have been trained since, and its values are no random ones then. Values are
    read only where a name is missing. The arguments are those of `difference_from_checkpoint`.
    """
    wanted = _parameters(module, exclude)
    try:
        missing = wanted.keys() - {name for name, _ in _stored(module, source, wanted)}
    except _UNREADABLE as error:
        log.debug("The checkpoint %s cannot be read: %s", source, error)
        return frozenset()
    if not missing or any(LAYER.search(name) for name in missing):
        return frozenset()
    modules = {name.rpartition(".")[0] for name in missing}
    is_other = difference_from_checkpoint(module, source, exclude=(*exclude, *modules)) is not None
    return frozenset() if is_other else frozenset(missing)


def _parameters(module: nn.Module, exclude: Collection[str]) -> dict[str, torch.Tensor]:
    """The parameters outside some modules and outside maps in few bits."""
    packed = {name for name, child in module.named_modules() if n_bits(child)}
    left_out = tuple(f"{name}." for name in (*exclude, *packed))
    return {name: p.detach() for name, p in module.named_parameters() if not name.startswith(left_out)}


def _stored(
    module: nn.Module, source: str, wanted: Collection[str]
) -> Iterator[tuple[str, Callable[[], torch.Tensor]]]:
    """The tensors of a checkpoint that a model wants: their names in the model, and how to read them."""
    prefix = f"{getattr(module, 'base_model_prefix', '')}."
    for file in _files(source, revision=getattr(getattr(module, "config", None), "_commit_hash", None)):
        yield from _tensors(file, wanted, prefix=prefix)


def _files(source: str, *, revision: str | None) -> Iterator[Path]:
    """The files of a checkpoint, from its folder or from the cache of the hub."""
    for whole, index in ((_WHOLE, _INDEX), (_WHOLE_BIN, _INDEX_BIN)):
        if (path := _file_of(source, whole, revision)) is not None:
            yield path
            return
        if (path := _file_of(source, index, revision)) is not None:
            for name in sorted(set(json.loads(path.read_bytes())["weight_map"].values())):
                if (part := _file_of(source, name, revision)) is None:
                    raise FileNotFoundError(name)
                yield part
            return
    raise FileNotFoundError(source)


def _file_of(source: str, name: str, revision: str | None) -> Path | None:
    path = Path(source) / name
    if path.is_file():
        return path
    if Path(source).is_dir():
        return None
    cached = try_to_load_from_cache(source, name, revision=revision)
    return Path(cached) if isinstance(cached, str) else None


def _tensors(
    file: Path, wanted: Collection[str], *, prefix: str
) -> Iterator[tuple[str, Callable[[], torch.Tensor]]]:
    """The tensors of a file that a model has, under the model's names, each as a function that reads it."""

    def name_of(key: str) -> str | None:
        stem, dot, end = key.rpartition(".")
        name = f"{stem}{dot}{_OLD_ENDS.get(end, end)}"
        return next((n for n in (name, prefix + name, name.removeprefix(prefix)) if n in wanted), None)

    if file.suffix == ".bin":
        tensors: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        for key in tensors:
            if (name := name_of(key)) is not None:
                yield name, partial(tensors.__getitem__, key)
        return
    with safe_open(file, framework="pt") as opened:
        for key in opened.keys():  # noqa: SIM118 - no dictionary
            if (name := name_of(key)) is not None:
                yield name, partial(opened.get_tensor, key)

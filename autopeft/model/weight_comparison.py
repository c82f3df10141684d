"""Whether the weights of a model are as they were, and whether they are those of its checkpoint."""

from __future__ import annotations

import contextlib
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

from autopeft.model.linear_layers import n_bits
from autopeft.types.plans import LAYER

_SAMPLE = 4096  # numbers of a tensor that the quick look reads; chosen by hand
_CHUNK_BYTES = 2**26  # copied at once; chosen by hand
_CHUNK_NUMBERS = 2**24  # digested at once; another number gives another digest
_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes of a number
_WHOLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_WHOLE_BIN, _INDEX_BIN = "pytorch_model.bin", "pytorch_model.bin.index.json"
_OLD_ENDS = {"gamma": "weight", "beta": "bias"}  # of norms in old checkpoints
_UNREADABLE = (OSError, ValueError, LookupError, RuntimeError, SafetensorError, pickle.UnpicklingError)

log = logging.getLogger(__name__)


class _Identity(NamedTuple):
    """What tells a tensor from others without reading it; `version` counts its changes in place."""

    name: str
    pointer: int
    shape: torch.Size
    dtype: torch.dtype
    version: int


class TensorWatch:
    """Tells whether a module still has the tensors that it had, reading a small part of them.

    A change is found if it replaced a tensor, if torch counted it (in place, by any operation), or if it
    touched one of about 4,096 evenly spaced numbers of a tensor. Only `weight_digests` finds a change of
    other numbers through `.data`. LoRA on experts makes torch count changes that are none, so a tensor with
    a new count is summed in full, and its new count noted: a change that only the count shows is named once.
    """

    def __init__(self, module: nn.Module) -> None:
        tensors = _tensors_of(module)
        self._identities = [_identity(name, tensor) for name, tensor in tensors]
        self._sums = _stacked([_sum(tensor) for _, tensor in tensors])
        self._samples = _stacked([_sum(tensor, _SAMPLE) for _, tensor in tensors])

    def first_change(self, module: nn.Module) -> str | None:
        """Name a parameter or buffer that is not as it was; None if none was found."""
        tensors = _tensors_of(module)
        now = [_identity(name, tensor) for name, tensor in tensors]
        if len(now) != len(self._identities):
            return min({new.name for new in now} ^ {old.name for old in self._identities})
        for old, new in zip(self._identities, now, strict=True):
            if old[:-1] != new[:-1]:  # another tensor has taken the place
                return old.name
        counted = [i for i, new in enumerate(now) if new.version != self._identities[i].version]
        samples = _stacked([_sum(tensor, _SAMPLE) for _, tensor in tensors])
        sums = self._sums.clone()
        for i in counted:
            sums[i] = _sum(tensors[i][1])
        changed = ((samples != self._samples) | (sums != self._sums)).nonzero().flatten().tolist()
        self._identities = now
        return now[changed[0]].name if changed else None


def weight_digests(module: nn.Module, *, exclude: Collection[str] = ()) -> dict[str, str]:
    """Digest the values of all weights, whatever the format that holds them (SHA-256).

    There is a digest of the values, and one of the values in bfloat16, by which a model that is held in
    bfloat16 is compared with one in float32. Maps in few bits are left out: each device packs them in its own
    way, a CPU at their first use. Modules of `exclude` are left out, too.
    """
    exact, rounded, excluded = hashlib.sha256(), hashlib.sha256(), tuple(f"{name}." for name in exclude)
    packed = tuple(f"{name}." for name, child in module.named_modules() if n_bits(child))
    formats = set()
    for name, tensor in sorted(module.state_dict().items()):
        if name.startswith((*excluded, *packed)):
            continue
        formats.add(tensor.dtype)
        for digest in (exact, rounded):
            digest.update(f"{name} {tuple(tensor.shape)}".encode())
        for held in torch.split(_flat(tensor), _CHUNK_NUMBERS):
            piece = held.cpu()
            if not piece.is_floating_point():
                rounded_bytes = _sha256(piece)
                exact_bytes = rounded_bytes
            else:
                narrow = piece.to(torch.bfloat16)
                rounded_bytes = _sha256(narrow)
                is_narrow = piece.dtype == torch.bfloat16 or torch.equal(narrow.to(piece.dtype), piece)
                exact_bytes = rounded_bytes if is_narrow else _sha256(piece.float())
            rounded.update(rounded_bytes)
            exact.update(exact_bytes)
    if packed:
        return {"weights beside the quantized maps": rounded.hexdigest()}
    if torch.float16 in formats:  # whose numbers bfloat16 would round once more
        return {"weights held in float16": exact.hexdigest()}
    label = "weights held in bfloat16" if torch.bfloat16 in formats else "weights"
    return {label: exact.hexdigest(), "weights in bfloat16": rounded.hexdigest()}


def _sha256(tensor: Tensor) -> bytes:
    return hashlib.sha256(tensor.view(torch.uint8).numpy().data).digest()


def _tensors_of(module: nn.Module) -> list[tuple[str, Tensor]]:
    """List parameters and the buffers that a checkpoint holds, detached.

    Other buffers may change as a model runs: LongRoPE writes frequencies for short or long texts into one.
    """
    computed = {
        f"{prefix}.{name}".lstrip(".")
        for prefix, part in module.named_modules()
        for name in part._non_persistent_buffers_set
    }
    buffers = ((name, buffer) for name, buffer in module.named_buffers() if name not in computed)
    tensors: list[tuple[str, Tensor]] = [*module.named_parameters(), *buffers]
    return [(name, tensor.detach()) for name, tensor in tensors]


def _identity(name: str, tensor: Tensor) -> _Identity:
    return _Identity(name, tensor.data_ptr(), tensor.shape, tensor.dtype, tensor._version)


def _sum(tensor: Tensor, n_numbers: int | None = None) -> Tensor:
    """Sum the bits of a tensor, or of about `n_numbers` evenly spaced numbers, as integers."""
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
    """Gather sums on the device of the first one, so that no number is copied to the CPU."""
    return torch.stack([total.to(sums[0].device) for total in sums]) if sums else torch.zeros(0)


def difference_from_checkpoint(module: nn.Module, source: str, *, exclude: Collection[str]) -> str | None:
    """Name a parameter outside the head that differs from the checkpoint; None if no difference is found.

    Files are read one tensor at a time, and nothing is downloaded. What cannot be compared is no difference:
    a missing or damaged checkpoint, maps in few bits, layers whose tensors it names otherwise. `source` is
    the folder or hub id that the model was loaded from.
    """
    parameters = _plain_parameters(module, exclude)
    missing = dict.fromkeys(parameters)
    try:
        for name, read in _stored_tensors(module, source, parameters):
            missing.pop(name, None)
            held, stored = parameters[name], read()
            if held.shape != stored.shape or not torch.equal(held.cpu(), stored.to(held.dtype)):
                return name
    except _UNREADABLE as error:
        log.debug("The checkpoint %s cannot be compared: %s", source, error)
        return None
    return next((name for name in missing if not LAYER.search(name)), None)


def lacking_in_checkpoint(module: nn.Module, source: str, *, exclude: Collection[str]) -> frozenset[str]:
    """List parameters outside the head that the checkpoint lacks, so that each load draws them anew.

    The list is empty if the checkpoint cannot be read, if it names the tensors of a layer otherwise, or if
    another parameter differs: the module may have been trained since, and its values are not random then.
    The arguments are those of `difference_from_checkpoint`.
    """
    parameters = _plain_parameters(module, exclude)
    try:
        missing = parameters.keys() - {name for name, _ in _stored_tensors(module, source, parameters)}
    except _UNREADABLE as error:
        log.debug("The checkpoint %s cannot be read: %s", source, error)
        return frozenset()
    if not missing or any(LAYER.search(name) for name in missing):
        return frozenset()
    modules = {name.rpartition(".")[0] for name in missing}
    is_changed = difference_from_checkpoint(module, source, exclude=(*exclude, *modules)) is not None
    return frozenset() if is_changed else frozenset(missing)


def _plain_parameters(module: nn.Module, exclude: Collection[str]) -> dict[str, torch.Tensor]:
    packed = {name for name, child in module.named_modules() if n_bits(child)}
    excluded = tuple(f"{name}." for name in (*exclude, *packed))
    return {name: p.detach() for name, p in module.named_parameters() if not name.startswith(excluded)}


def _stored_tensors(
    module: nn.Module, source: str, names: Collection[str]
) -> Iterator[tuple[str, Callable[[], torch.Tensor]]]:
    """Yield the tensors of a checkpoint that a model has: the name in the model, and how to read it."""
    prefix = f"{getattr(module, 'base_model_prefix', '')}."

    def name_of(key: str) -> str | None:
        stem, dot, end = key.rpartition(".")
        name = f"{stem}{dot}{_OLD_ENDS.get(end, end)}"
        return next((n for n in (name, prefix + name, name.removeprefix(prefix)) if n in names), None)

    for file in _checkpoint_files(source, revision=getattr(module.config, "_commit_hash", None)):
        with contextlib.ExitStack() as stack:
            if file.suffix == ".bin":
                tensors: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
                keys, read = list(tensors), tensors.__getitem__
            else:
                opened = stack.enter_context(safe_open(file, framework="pt"))
                keys, read = opened.keys(), opened.get_tensor
            for key in keys:
                if (name := name_of(key)) is not None:
                    yield name, partial(read, key)


def _checkpoint_files(source: str, *, revision: str | None) -> Iterator[Path]:
    """Yield the files of a checkpoint, from its folder or from the cache of the hub."""

    def find(name: str) -> Path | None:
        if Path(source).is_dir():
            return path if (path := Path(source) / name).is_file() else None
        cached = try_to_load_from_cache(source, name, revision=revision)
        return Path(cached) if isinstance(cached, str) else None

    for whole, index in ((_WHOLE, _INDEX), (_WHOLE_BIN, _INDEX_BIN)):
        if (path := find(whole)) is not None:
            yield path
            return
        if (path := find(index)) is not None:
            for name in sorted(set(json.loads(path.read_bytes())["weight_map"].values())):
                if (part := find(name)) is None:
                    raise FileNotFoundError(name)
                yield part
            return
    raise FileNotFoundError(source)

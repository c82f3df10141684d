"""Whether a model in memory still has the weights of the checkpoint that it was loaded from."""

from __future__ import annotations

import json
import logging
import pickle
from collections.abc import Callable, Collection, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import try_to_load_from_cache
from safetensors import SafetensorError, safe_open
from torch import nn

from autopeft.model.shapes import n_bits
from autopeft.records.roles import LAYER

_WHOLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_WHOLE_BIN, _INDEX_BIN = "pytorch_model.bin", "pytorch_model.bin.index.json"
_OLD_ENDS = {"gamma": "weight", "beta": "bias"}  # of norms in old checkpoints
_UNREADABLE = (OSError, ValueError, LookupError, RuntimeError, SafetensorError, pickle.UnpicklingError)

log = logging.getLogger(__name__)


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

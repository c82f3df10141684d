"""Whether a model in memory still has the weights of the checkpoint that it was loaded from."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import torch
from huggingface_hub import try_to_load_from_cache
from safetensors import SafetensorError, safe_open
from torch import nn

_WHOLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_OLD_ENDS = {"gamma": "weight", "beta": "bias"}  # of norms in old checkpoints

log = logging.getLogger(__name__)


def difference_from_checkpoint(module: nn.Module, source: str, *, exclude: Collection[str]) -> str | None:
    """The first parameter outside the head that is another than in a checkpoint; None where all are equal.

    Files are read one tensor at a time, and nothing is downloaded. A checkpoint that is not here, that is no
    safetensors, or that names its tensors otherwise counts as another.

    Args:
        module: A transformers model in float32.
        source: The folder or hub id that it was loaded from.
        exclude: Modules of the head.
    """
    heads = tuple(f"{name}." for name in exclude)
    wanted = {name: p.detach() for name, p in module.named_parameters() if not name.startswith(heads)}
    missing = dict(wanted)
    prefix = f"{getattr(module, 'base_model_prefix', '')}."
    try:
        for file in _files(source):
            for name, stored in _tensors(file, wanted, prefix=prefix):
                own = missing.pop(name, None)
                if own is not None and not _are_equal(own, stored):
                    return name
    except (OSError, ValueError, SafetensorError) as error:
        log.debug("The checkpoint %s cannot be compared: %s", source, error)
        return next(iter(wanted))
    return next(iter(missing), None)


def _files(source: str) -> Iterator[Path]:
    """The safetensors files of a checkpoint, from its folder or from the cache of the hub."""
    index = _file_of(source, _INDEX)
    names = [_WHOLE]
    if index is not None:
        names = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
    for name in names:
        path = _file_of(source, name)
        if path is None:
            raise FileNotFoundError(name)
        yield path


def _file_of(source: str, name: str) -> Path | None:
    path = Path(source) / name
    if path.is_file():
        return path
    if Path(source).is_dir():
        return None
    cached = try_to_load_from_cache(source, name)
    return Path(cached) if isinstance(cached, str) else None


def _tensors(
    file: Path, wanted: Mapping[str, torch.Tensor], *, prefix: str
) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors of a file that a model has, under the model's names."""
    with safe_open(file, framework="pt") as opened:
        for key in opened.keys():  # noqa: SIM118 - no dictionary
            stem, dot, end = key.rpartition(".")
            name = f"{stem}{dot}{_OLD_ENDS.get(end, end)}"
            known = next((n for n in (name, prefix + name, name.removeprefix(prefix)) if n in wanted), None)
            if known is not None:
                yield known, opened.get_tensor(key)


def _are_equal(own: torch.Tensor, stored: torch.Tensor) -> bool:
    return own.shape == stored.shape and torch.equal(own.cpu(), stored.to(own.dtype))

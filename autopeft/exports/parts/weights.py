"""Reads trained weights from the folders in which `peft` wrote them."""

from __future__ import annotations

import logging
import pickle
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from autopeft.adapters import ConfigFile
from autopeft.adapters.configs import adapts_modules
from autopeft.errors import SpecError

_SAFE = "adapter_model.safetensors"

# Number formats of weights that peft and safetensors compute with on every device.
_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_log = logging.getLogger(__name__)


def read_all_weights(
    files: Sequence[ConfigFile], *, allow_pickle: bool = False
) -> tuple[dict[str, torch.Tensor], ...]:
    """The tensors beside each config, by name, as `read_weights` reads them; () where no config has any.

    Raises:
        SpecError: Some folders have weights and others none, or a file has no tensors.
    """
    weights = [read_weights(file.folder, allow_pickle=allow_pickle) for file in files]
    lacking = [file.folder for file, tensors in zip(files, weights, strict=True) if tensors is None]
    if lacking and len(lacking) < len(files):
        raise SpecError(f"{lacking[0]} has no weights, the folders beside it have; put {_SAFE} there.")
    for file, tensors in zip(files, weights, strict=True):
        if tensors == {} and adapts_modules(file.config):
            raise SpecError(
                f"{file.folder} holds no tensors in its file of weights; pass that of a trained adapter."
            )
    return tuple(tensors for tensors in weights if tensors is not None)


def read_weights(folder: Path, *, allow_pickle: bool = False) -> dict[str, torch.Tensor] | None:
    """The tensors of an adapter's folder by name; None where it has no file of weights.

    Args:
        folder: Holds `adapter_model.safetensors`, or an older `adapter_model.bin`.
        allow_pickle: Read the tensors of an `adapter_model.bin`, which is a pickle; no other object is read.

    Raises:
        SpecError: The file is damaged, holds numbers that are not finite, or is a pickle and those are
            not allowed.
    """
    path = folder / _SAFE
    if path.exists():
        try:
            tensors = dict(load_file(path))
        except (SafetensorError, OSError, ValueError) as error:
            raise SpecError(
                f"{path} is damaged ({error}); it must be a file that safetensors wrote."
            ) from error
    else:
        path = folder / "adapter_model.bin"
        if not path.exists():
            return None
        if not allow_pickle:
            raise SpecError(
                f"{path} is a pickle, which can run code when read; pass --allow-pickle if you trust it, or "
                f"write it as {_SAFE}."
            )
        tensors = _read_pickle(path)
    dtypes = {name: t.dtype for name, t in tensors.items() if t.is_floating_point() or t.is_complex()}
    for name, dtype in dtypes.items():
        if dtype not in _DTYPES:
            formats = ", ".join(str(allowed).removeprefix("torch.") for allowed in _DTYPES)
            raise SpecError(
                f"{path} holds {name} in {str(dtype).removeprefix('torch.')}; write it in one of {formats}."
            )
    odd = [name for name, t in tensors.items() if t.is_floating_point() and not t.isfinite().all()]
    if odd:
        more = f" and {len(odd) - 1} more" if len(odd) > 1 else ""
        raise SpecError(
            f"{path} holds numbers that are not finite, in {odd[0]}{more}; its training diverged: train it "
            "anew at a lower rate."
        )
    return tensors


def _read_pickle(path: Path) -> dict[str, torch.Tensor]:
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, zipfile.BadZipFile, RuntimeError, EOFError, OSError, ValueError) as error:
        if isinstance(error, pickle.UnpicklingError):  # torch's words tell how to run the code all the same
            raise SpecError(
                f"{path} is damaged or holds more than tensors (a pickle that can run code); it was not "
                f"read: get the adapter as {_SAFE}."
            ) from error
        reason = (str(error).strip() or "empty").splitlines()[0]
        raise SpecError(f"{path} is damaged ({reason}); get the adapter as {_SAFE}.") from error
    is_dict = isinstance(content, dict)
    if not is_dict or not all(isinstance(value, torch.Tensor) for value in content.values()):
        raise SpecError(f"{path} holds a {type(content).__name__}; it must hold tensors by name.")
    _log.warning("%s was read as a pickle, tensors alone.", path)
    return {str(name): tensor for name, tensor in content.items()}

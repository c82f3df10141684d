"""Reads trained weights from the folders in which `peft` wrote them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from autopeft.adapters import ConfigFile
from autopeft.adapters.configs import adapts_modules
from autopeft.errors import SpecError
from autopeft.types import listed

_SAFE = "adapter_model.safetensors"

# Number formats of weights that peft and safetensors compute with on every device.
_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def read_all_weights(files: Sequence[ConfigFile]) -> tuple[dict[str, torch.Tensor], ...]:
    """Read the tensors of each config by name; () if no config has any. Raises as `read_weights`.

    Raises:
        SpecError: Only some folders have weights, or a file of weights is empty.
    """
    weights = [read_weights(file.folder) for file in files]
    lacking = [file.folder for file, tensors in zip(files, weights, strict=True) if tensors is None]
    if lacking and len(lacking) < len(files):
        raise SpecError(f"{lacking[0]} has no weights, the folders beside it have; put {_SAFE} there.")
    for file, tensors in zip(files, weights, strict=True):
        if tensors == {} and adapts_modules(file.config):
            raise SpecError(
                f"{file.folder} holds no tensors in its file of weights; pass that of a trained adapter."
            )
    return tuple(tensors for tensors in weights if tensors is not None)


def read_weights(folder: Path) -> dict[str, torch.Tensor] | None:
    """Read the tensors of an adapter's folder by name; None if it has no file of weights.

    Raises SpecError if the file is damaged, is a pickle, or has an unusual number format or infinite numbers.
    """
    path = folder / _SAFE
    if not path.exists():
        if (folder / "adapter_model.bin").exists():
            raise SpecError(
                f"{folder / 'adapter_model.bin'} is a pickle, which can run code when read; if you trust it, "
                f"load it with peft and save it again, which writes {_SAFE}."
            )
        return None
    try:
        tensors = dict(load_file(path))
    except (SafetensorError, OSError, ValueError) as error:
        raise SpecError(f"{path} is damaged ({error}); it must be a file that safetensors wrote.") from error
    dtypes = {name: t.dtype for name, t in tensors.items() if t.is_floating_point() or t.is_complex()}
    for name, dtype in dtypes.items():
        if dtype not in _DTYPES:
            formats = ", ".join(str(allowed).removeprefix("torch.") for allowed in _DTYPES)
            raise SpecError(
                f"{path} holds {name} in {str(dtype).removeprefix('torch.')}; write it in one of {formats}."
            )
    odd = [name for name, t in tensors.items() if t.is_floating_point() and not t.isfinite().all()]
    if odd:
        raise SpecError(
            f"{path} holds numbers that are not finite, in {listed(odd, 1)}; its training diverged: train it "
            "anew at a lower rate."
        )
    return tensors

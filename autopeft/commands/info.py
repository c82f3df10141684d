"""What is installed here, and which devices there are."""

from __future__ import annotations

import importlib.metadata
import platform

import torch

from autopeft.errors import ModelError
from autopeft.model import find_device, free_bytes, resolve
from autopeft.model.devices import narrow_format
from autopeft.plugins import PROTOCOLS, discover
from autopeft.types import VERSION, ModelSpec

_REQUIRED = ("torch", "transformers", "peft", "accelerate", "datasets", "huggingface-hub", "optuna")
_OPTIONAL = ("bitsandbytes", "gguf", "pillow", "ray", "timm")


def versions() -> dict[str, str | None]:
    """Return the versions of autopeft and of what it uses; None if a package is not installed."""
    own = {"autopeft": VERSION, "python": platform.python_version()}
    return own | {name: _installed(name) for name in (*_REQUIRED, *_OPTIONAL)}


def devices() -> dict[str, str | None]:
    """Describe the device that a search takes, and what else decides where and how fast it runs."""
    device = find_device(None)
    gpus = [
        torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count() * torch.cuda.is_available())
    ]
    return {
        "device": str(device),
        "GPUs": ", ".join(gpus) or None,
        "CUDA of torch": torch.version.cuda,
        "free memory": f"{free_bytes(device) / 2**30:.1f} GiB",
        "number format": narrow_format(device) or "float32",
        "threads": str(torch.get_num_threads()),
        "demo model": _demo_model(),
    }


def broken_plugins() -> list[str]:
    """List the plug-ins of other packages that cannot be used, each with its cause."""
    return [sentence for package in PROTOCOLS for sentence in discover(package).broken.values()]


def _installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _demo_model() -> str | None:
    try:
        return resolve(ModelSpec())[1]
    except ModelError:
        return None

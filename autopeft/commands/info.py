"""What is installed here, and which devices there are."""

from __future__ import annotations

import importlib.metadata
import platform
from contextlib import suppress

import torch

from autopeft.errors import ModelError
from autopeft.model import find_device, free_bytes, resolve
from autopeft.model.devices import narrow_format
from autopeft.plugins import PROTOCOLS, discover
from autopeft.types import VERSION, ModelSpec

_PACKAGES = (
    *("torch", "transformers", "peft", "accelerate", "datasets", "huggingface-hub", "optuna"),
    *("causal-conv1d", "flash-attn", "flash-linear-attention", "mamba-ssm"),  # optional, for speed on a GPU
    *("bitsandbytes", "gguf", "pillow", "ray", "timm", "trl"),  # optional
)


def versions() -> dict[str, str | None]:
    """Return the versions of autopeft and of what it uses; None if a package is not installed."""
    found: dict[str, str | None] = {"autopeft": VERSION, "python": platform.python_version()}
    for name in _PACKAGES:
        found[name] = None
        with suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def devices() -> dict[str, str | None]:
    """Describe the device that a search takes, and what else decides where and how fast it runs."""
    device = find_device(None)
    n_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    demo_model = None
    with suppress(ModelError):
        demo_model = resolve(ModelSpec())[1]
    return {
        "device": str(device),
        "GPUs": ", ".join(map(torch.cuda.get_device_name, range(n_gpus))) or None,
        "CUDA of torch": torch.version.cuda,
        "free memory": f"{free_bytes(device) / 2**30:.1f} GiB",
        "number format": narrow_format(device) or "float32",
        "threads": str(torch.get_num_threads()),
        "demo model": demo_model,
    }


def broken_plugins() -> list[str]:
    """List the plug-ins of other packages that cannot be used, each with its cause."""
    return [sentence for package in PROTOCOLS for sentence in discover(package).broken.values()]

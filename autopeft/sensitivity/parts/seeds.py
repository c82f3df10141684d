"""Random generators for a score's draws."""

from __future__ import annotations

import zlib

import torch


def generator(seed: int, *names: str | int) -> torch.Generator:
    """A generator on the CPU, seeded by a seed and by names such as a site's."""
    text = "/".join(str(part) for part in (seed, *names))
    return torch.Generator().manual_seed(zlib.crc32(text.encode()))

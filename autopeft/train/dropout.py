"""Dropout on a CPU: masks from 16 random bits an element, instead of a drawn float for each."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.library import Library

_STEPS = 2**16  # values of the 16 bits; a probability is rounded to the nearest of them
_PER_WORD = 4  # masks from one 64-bit word of the generator


@contextlib.contextmanager
def quick_masks(device: torch.device) -> Iterator[None]:
    """A context in which `bernoulli_` fills CPU tensors faster, and with it every dropout of a model.

    torch draws each element of a mask by itself and on one thread, except on processors of one vendor: on
    two cores of another that was a sixth of a step of MiniLM-L6. The masks come from torch's generator, so
    that `torch.manual_seed` decides them as before; they are other masks than outside of the context.
    """
    if device.type != "cpu":
        yield
        return
    library = Library("aten", "IMPL")  # type: ignore[no-untyped-call]
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=r"(?s).*[Oo]verrid")  # which is what is wanted
            library.impl("bernoulli_.float", _fill, "CPU")  # type: ignore[no-untyped-call]
        yield
    finally:
        # Gives torch's own kernel back; there is no public way.
        library._destroy()  # type: ignore[no-untyped-call]


def _fill(mask: Tensor, p: float = 0.5, generator: torch.Generator | None = None) -> Tensor:
    """Ones with probability p, in steps of 2^-16, else zeros."""
    if not 0 <= p <= 1:
        raise RuntimeError(f"bernoulli_ expects p to be in [0, 1], but got p={p}")
    n_ones = round(p * _STEPS)
    if n_ones in (0, _STEPS):
        return mask.fill_(n_ones // _STEPS)
    words = torch.empty(-(-mask.numel() // _PER_WORD), dtype=torch.int64)
    bits = words.random_(-(2**63), None, generator=generator).view(torch.int16)[: mask.numel()]
    return mask.copy_((bits < n_ones - _STEPS // 2).view(mask.shape))

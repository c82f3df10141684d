"""The device and the number format that a base model computes in; what the device has decides by default."""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

import torch

from autopeft.errors import ModelError, reason_of

_LEAST_WIDTH = 128  # on a CPU; in narrower models other work takes longer than products; chosen by hand
_BFLOAT16_SINCE = (8, 0)  # compute capability of GPUs of NVIDIA; older ones only emulate it, slowly
# Devices whose free memory and random numbers `memory` and `devices` know.
_DEVICE = re.compile(r"(?:cpu|cuda|mps)(?::\d+)?", re.ASCII)

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Precision:
    """The number format that a base model is held in and computes in.

    `dtype` is float32 or bfloat16. `matmul` is torch's word for how float32 matrices are multiplied:
    `highest`, or `high` for TF32 on GPUs.
    """

    dtype: str = "float32"
    matmul: str = "highest"

    @property
    def torch_dtype(self) -> torch.dtype:
        """The format as torch has it."""
        return cast(torch.dtype, getattr(torch, self.dtype))

    def autocast(self, device: torch.device) -> contextlib.AbstractContextManager[None]:
        """A context for one forward pass; in a longer one, autocast's cache would keep old adapters."""
        if self.dtype == "float32":
            return contextlib.nullcontext()
        return torch.autocast(device.type, dtype=self.torch_dtype)

    def of_copies(self, device: torch.device) -> Precision:
        """How float32 copies of what this precision computes are multiplied: TF32 holds bfloat16 exactly."""
        is_exact = device.type == "cuda" and self.dtype == "bfloat16"
        return replace(self, matmul="high") if is_exact else self

    @contextlib.contextmanager
    def multiplying(self) -> Iterator[None]:
        """A context in which torch multiplies float32 matrices as `matmul` says; for backward passes too."""
        put_back = _note_matmul()
        torch.set_float32_matmul_precision(self.matmul)
        try:
            yield
        finally:
            put_back()


def _note_matmul() -> Callable[[], None]:
    """A function that puts back how float32 matrices are multiplied, whichever of torch's two ways set it."""
    try:
        return partial(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision())
    except (
        RuntimeError
    ):  # set for each backend, as transformers does for `tf32=True`, where one word says nothing
        backends = [torch.backends.cuda.matmul, cast(Any, torch.backends.mkldnn).matmul]
        before = [backend.fp32_precision for backend in backends]

        def put_back() -> None:
            for backend, precision in zip(backends, before, strict=True):
                backend.fp32_precision = precision

        return put_back


def device_names(names: str | None) -> tuple[str | None, ...]:
    """The devices of `--device` in lower case, at least one; None is the default device.

    Example:
        >>> device_names("cuda:0,1"), device_names("CPU"), device_names(None)
        (('cuda:0', 'cuda:1'), ('cpu',), (None,))
    """
    if names is None:
        return (None,)
    first, *others = (name.strip() for name in names.lower().split(","))
    kind = first.partition(":")[0]
    return (first, *(f"{kind}:{name}" if name.isdecimal() else name for name in others))


def like_gpus() -> tuple[str, ...]:
    """The first GPU that torch can use, and all others of its kind; empty without one.

    On a GPU with less memory, such as one for the screen, plans would run out of memory that fit elsewhere.
    """
    if not torch.cuda.is_available():  # GPUs are counted where their driver is too old for torch
        return ()
    properties = map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
    kinds = [(each.name, round(each.total_memory / 2**30)) for each in properties]
    return tuple(f"cuda:{index}" for index, kind in enumerate(kinds) if kind == kinds[0])


def find_device(names: str | None) -> torch.device:
    """The first named device, or by default a GPU where there is one.

    Raises ModelError for a word that names no device, and where the first one is not here.
    """
    name, *others = device_names(names)
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if odd := [each for each in (name, *others) if not _DEVICE.fullmatch(str(each))]:
        raise ModelError(
            f"There is no device {odd[0]!r}; --device takes cpu, cuda, cuda:1 or mps, or several of a kind, "
            "such as cuda:0,1."
        )
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = _absence(device) or reason_of(error)
        text = f"The device {name!r} cannot be used here ({reason}); use cpu or another --device."
        raise ModelError(text) from error
    return device


def _absence(device: torch.device) -> str:
    """Why a device is not here, in words; empty where it is here."""
    if device.type == "mps":
        return "" if torch.backends.mps.is_available() else "torch finds no GPU of a Mac"
    n_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device.type == "cpu" or (device.index or 0) < n_gpus:
        return ""
    numbered = "cuda:0 alone" if n_gpus == 1 else f"cuda:0 to cuda:{n_gpus - 1}"
    return f"torch finds {numbered}" if n_gpus else "torch finds no GPU"


def make_current(device: torch.device) -> None:
    """Let what names no GPU use this one, where it has a number: kernels of other libraries, and torch's own.

    Otherwise they would take memory of the first GPU too.
    """
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)


def computes_in_bfloat16(device: torch.device) -> bool:
    """Whether a device has instructions for products in bfloat16; others emulate it, 40 to 500 times slower.

    1. GPUs of NVIDIA have them from Ampere on: not Volta and Turing (V100, T4, RTX 20).
    2. x86 processors have them with AVX512_BF16 or AMX.
    3. ARM processors have them with the flag `bf16`. Torch uses them through the Arm Compute Library alone.
    4. On other devices bfloat16 is not tried.
    """
    if device.type == "cuda":
        return bool(torch.version.hip) or torch.cuda.get_device_capability(device) >= _BFLOAT16_SINCE
    if device.type != "cpu" or not cast(Any, torch.backends.mkldnn).is_available():
        return False
    library = torch.ops.mkldnn
    on_x86 = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return on_x86 or (library._is_mkldnn_acl_supported() and library._is_mkldnn_bf16_supported())


def choose_precision(config: Any, device: torch.device) -> Precision:
    """bfloat16 if the device computes in it, else float32; float32 for narrow models on a CPU.

    One machine always gives the same answer. The choice and its reason are logged in one sentence.
    """
    text = config.get_text_config()
    width = getattr(text, "hidden_size", None) or getattr(text, "num_features", None)  # of timm models
    if not computes_in_bfloat16(device):
        dtype, reason = "float32", f"no instructions for bfloat16 are known on this {device.type} device"
    elif device.type == "cpu" and not (isinstance(width, int) and width >= _LEAST_WIDTH):
        dtype, reason = "float32", f"below {_LEAST_WIDTH} hidden units bfloat16 would not be faster"
    else:
        dtype, reason = "bfloat16", f"the {device.type} device has instructions for it"
    log.info("The base model computes in %s: %s; --dtype overrides this.", dtype, reason)
    return Precision(dtype=dtype)

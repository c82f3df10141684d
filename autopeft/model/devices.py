"""Devices and number formats that base models compute in, and memory of devices."""

from __future__ import annotations

import contextlib
import gc
import logging
import re
import weakref
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import psutil
import torch
from torch import nn

from autopeft.cgroups import left_bytes
from autopeft.errors import ModelError, reason_of

_LEAST_WIDTH = 128  # on a CPU; in narrower models other work takes longer than products; heuristic
# Compute capability of NVIDIA's GPUs: Ampere has bfloat16, which older ones emulate slowly, Volta float16.
_BFLOAT16_SINCE, _FLOAT16_SINCE = (8, 0), (7, 0)
# Models whose activations leave float16's range: vLLM refuses the first, unsloth trains the second in float32
# (its FORCE_FLOAT32), and T5 is known for it.
_OVERFLOWING = (
    *("gemma2", "gemma3", "glm4", "plamo2"),
    *("gemma3n", "gemma4", "gpt_oss", "qwen3_5", "qwen3_moe", "glm4_moe"),
    *("t5", "mt5", "umt5", "longt5"),
)
_DEVICE = re.compile(r"(?:cpu|cuda)(?::\d+)?", re.ASCII)
SPREAD = "balanced"  # the `--device` of all GPUs at once, as in accelerate
_OUT_OF_MEMORY = re.compile(
    # cuBLAS is not initialized, and cuFFT fails to allocate, if the GPU has no space for their work.
    r"out of memory|can't allocate memory|not enough memory|_ALLOC_FAILED|NOT_INITIALIZED.*cublasCreate",
    re.IGNORECASE | re.DOTALL,
)
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Precision:
    """The number format that a base model is held in and computes in."""

    dtype: str = "float32"  # or bfloat16, or float16, for which a loop must scale gradients up

    @property
    def torch_dtype(self) -> torch.dtype:
        """The dtype of torch."""
        return cast(torch.dtype, getattr(torch, self.dtype))

    def autocast(self, device: torch.device) -> contextlib.AbstractContextManager[None]:
        """Return a context for one pass; a longer one would keep adapters in autocast's cache."""
        if self.dtype == "float32":
            return contextlib.nullcontext()
        return torch.autocast(device.type, dtype=self.torch_dtype)


@contextlib.contextmanager
def exact_products() -> Iterator[None]:
    """Multiply float32 matrices in full precision within a context, without TF32."""
    by_backend: dict[Any, str] = {}
    try:
        for_all = torch.get_float32_matmul_precision()
    except RuntimeError:  # torch 2.9 on, set for each backend, as transformers' tf32=True does
        backends = (torch.backends.cuda.matmul, cast(Any, torch.backends.mkldnn).matmul)
        by_backend = {backend: backend.fp32_precision for backend in backends}
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        if not by_backend:
            torch.set_float32_matmul_precision(for_all)
        for backend, precision in by_backend.items():
            backend.fp32_precision = precision


def device_names(names: str | None) -> tuple[str | None, ...]:
    """Read `--device`: at least one name, in lower case; None is the default device.

    Example:
        >>> device_names("cuda:0,1"), device_names("CPU"), device_names(None)
        (('cuda:0', 'cuda:1'), ('cpu',), (None,))
    """
    if names is None:
        return (None,)
    devices = [name.strip() for name in names.lower().split(",")]
    kind = devices[0].partition(":")[0]
    return (devices[0], *(f"{kind}:{name}" if name.isdecimal() else name for name in devices[1:]))


def equal_gpus() -> tuple[str, ...]:
    """List the first GPU that torch can use and all others like it, with as much memory."""
    if not torch.cuda.is_available():  # torch counts GPUs even if their driver is too old for it
        return ()
    properties = map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
    kinds = [(each.name, round(each.total_memory / 2**30)) for each in properties]
    return tuple(f"cuda:{index}" for index, kind in enumerate(kinds) if kind == kinds[0])


def find_device(names: str | None) -> torch.device:
    """Return the first device of `--device`, `cuda` for `balanced`; by default a GPU if there is one.

    Raises ModelError for an unknown device, and if the first device cannot be used.
    """
    devices = device_names(names)
    name = devices[0]
    n_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name is None or (name == SPREAD and n_gpus > 1):
        return torch.device("cuda" if n_gpus else "cpu")
    if name == SPREAD:
        raise ModelError(
            f"--device {SPREAD} spreads layers over several GPUs, and torch finds {n_gpus}; pass cuda or cpu."
        )
    if odd := [device for device in devices if not _DEVICE.fullmatch(str(device))]:
        raise ModelError(
            f"There is no device {odd[0]!r}; --device takes cpu, cuda or cuda:1, or several of a kind, such "
            "as cuda:0,1."
        )
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ModelError(
            f"The device {name!r} cannot be used here ({reason_of(error)}); torch finds {n_gpus} GPUs. Use "
            "cpu or another --device."
        ) from error
    return device


def devices_of(module: nn.Module) -> tuple[torch.device, ...]:
    """List the devices of a model in the order of its layers."""
    places = dict.fromkeys(getattr(module, "hf_device_map", {}).values())
    if len(places) < 2:
        return (next(module.parameters()).device,)
    return tuple(torch.device("cuda", p) if isinstance(p, int) else torch.device(p) for p in places)


def make_current(device: torch.device) -> None:
    """Make a numbered GPU the default; kernels would take memory of the first one too."""
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)


def narrow_format(device: torch.device) -> str | None:
    """Return the 16-bit format that a device multiplies in hardware; None if there is none.

    Volta and Turing (V100, T4, RTX 20) have float16 alone. Processors that emulate bfloat16 are 40 to 500
    times slower. On ARM torch uses it through the Arm Compute Library only.
    """
    if device.type == "cuda":
        capability = torch.cuda.get_device_capability(device)
        if torch.version.hip or capability >= _BFLOAT16_SINCE:
            return "bfloat16"
        return "float16" if capability >= _FLOAT16_SINCE else None
    if device.type != "cpu" or not cast(Any, torch.backends.mkldnn).is_available():
        return None
    library = torch.ops.mkldnn
    on_x86 = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    on_arm = library._is_mkldnn_acl_supported() and library._is_mkldnn_bf16_supported()
    return "bfloat16" if on_x86 or on_arm else None


def choose_precision(config: Any, device: torch.device) -> Precision:
    """Choose the 16-bit format that the device has in hardware, else float32; log why."""
    text = config.get_text_config()
    width = getattr(text, "hidden_size", None) or getattr(text, "num_features", None)  # of timm models
    narrow = narrow_format(device)
    if narrow is None:
        dtype, reason = "float32", f"this {device.type} device has no known instructions for bfloat16"
    elif narrow == "float16" and overflows_in_float16(config):
        dtype, reason = "float32", f"this GPU has no bfloat16, and a {config.model_type} overflows in float16"
    elif device.type == "cpu" and not (isinstance(width, int) and width >= _LEAST_WIDTH):
        dtype, reason = "float32", f"below {_LEAST_WIDTH} hidden units bfloat16 would not be faster"
    else:
        dtype, reason = narrow, f"the {device.type} device has instructions for it"
    log.info("The base model computes in %s: %s; --dtype overrides this.", dtype, reason)
    return Precision(dtype=dtype)


def overflows_in_float16(config: Any) -> bool:
    """Return whether the activations of models of this type leave the range of float16."""
    return str(getattr(config, "model_type", "")).removesuffix("_text") in _OVERFLOWING


def has_used_gpus() -> bool:
    """Return whether this process has begun to use GPUs."""
    return bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]


def forked_rng() -> contextlib.AbstractContextManager[None]:
    """Return a context that restores the random state of the CPU, and that of GPUs in use."""
    return torch.random.fork_rng(devices=range(torch.cuda.device_count()) if has_used_gpus() else [])


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether a device ran out of memory; torch has no error type for a CPU's."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and _OUT_OF_MEMORY.search(str(error)) is not None


def release_memory(device: torch.device) -> None:
    """Free the tensors of a failed run; drop its error first, since it holds them."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def taken_bytes(device: torch.device) -> int:
    """Count the bytes of a device that this process uses; on a CPU its libraries count too."""
    if device.type == "cuda":
        return int(torch.cuda.memory_allocated(device))
    return int(psutil.Process().memory_info().rss)


def limit_memory(device: torch.device, limit_bytes: int) -> None:
    """Limit this process to `limit_bytes` of a GPU, unless a lower limit holds already."""
    if device.type == "cuda":
        share = limit_bytes / torch.cuda.get_device_properties(device).total_memory
        old_share = torch.cuda.get_per_process_memory_fraction(device)
        torch.cuda.set_per_process_memory_fraction(min(share, old_share), device)


def free_bytes(device: torch.device, *, limit_bytes: int | None = None) -> int:
    """Count the bytes that this process can still take on a device, up to `limit_bytes` in all."""
    taken = taken_bytes(device)
    if device.type == "cuda":
        # What torch has reserved and does not use counts as free.
        unused, total = torch.cuda.mem_get_info(device)
        allowed = int(torch.cuda.get_per_process_memory_fraction(device) * total)
        free = min(unused + torch.cuda.memory_reserved(device), allowed) - taken
    else:  # the kernel drops file caches for new tensors
        free = min(int(psutil.virtual_memory().available), left_bytes())
    return max(0, free if limit_bytes is None else min(free, limit_bytes - taken))


class _Holder:
    """Wraps a saved tensor: freed when autograd drops it, although the tensor may stay."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor


class SavedBytes:
    """Counts the distinct storages that autograd holds for backward, without parameters.

    Tensors that autograd drops before the count is read, as in DoRA's norms, do not count.
    """

    def __init__(self) -> None:
        self._sizes: dict[int, int] = {}
        self._n_holders: Counter[int] = Counter()

    @property
    def total(self) -> int:
        """Bytes held now."""
        return sum(self._sizes[pointer] for pointer, n_holders in self._n_holders.items() if n_holders)

    def counting(self) -> torch.autograd.graph.saved_tensors_hooks:
        """Return a context in which the tensors that autograd saves are counted."""
        return torch.autograd.graph.saved_tensors_hooks(self._pack, lambda holder: holder.tensor)

    def _pack(self, tensor: torch.Tensor) -> _Holder:
        holder = _Holder(tensor.detach())
        if not isinstance(tensor, nn.Parameter) and not isinstance(tensor._base, nn.Parameter):
            storage = tensor.untyped_storage()
            pointer = storage.data_ptr()
            self._sizes[pointer] = storage.nbytes()
            self._n_holders[pointer] += 1
            weakref.finalize(holder, self._n_holders.subtract, [pointer])
        return holder

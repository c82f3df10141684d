"""The device and the number format that a base model computes in; a short probe decides where nobody does."""

from __future__ import annotations

import contextlib
import logging
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F

from autopeft.errors import ModelError, reason_of

# All chosen by hand. A width below the least needs no probe: other work takes longer than its products. Wider
# products than the widest run at the same rate, and would take the probe too long.
_LEAST_WIDTH, _WIDEST = 128, 1024
_TOKENS = 256
_REPEATS = 4  # the fastest counts, as other processes only slow a product down
_LEAST_GAIN = 1.25  # of a format with larger rounding errors, before it is chosen
_BFLOAT16_SINCE = (8, 0)  # compute capability of GPUs of NVIDIA; older ones only emulate it, slowly
_WIDE, _LEAST_GAIN_WIDE = 1024, 0.8  # from this width on, half the memory is worth a slower product
_LARGEST_ERROR = 1e-2  # of a product, relative; bfloat16 rounds by 2**-9, so kernels above this are broken
# Devices whose free memory and random numbers `memory` and `devices` know.
_DEVICE = re.compile(r"(?:cpu|cuda|mps)(?::\d+)?", re.ASCII)
# The first product in bfloat16: where the processor has no instructions for it, it takes 40 to 500 times
# as long as in float32 (reports/LOG.md), which the probe must not wait for at full size.
_FIRST_WIDTH, _FIRST_TOKENS, _SLOWEST_FIRST = 128, 16, 8.0

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


def computes_in_bfloat16(gpu: torch.device) -> bool:
    """Whether a GPU has units for bfloat16; of NVIDIA's, Volta and Turing (V100, T4, RTX 20) have none."""
    return bool(torch.version.hip) or torch.cuda.get_device_capability(gpu) >= _BFLOAT16_SINCE


def choose_precision(
    config: Any,
    device: torch.device,
    *,
    remedy: str = "; --dtype overrides this",
    seconds_of: Callable[[Callable[[], object]], float] | None = None,
) -> Precision:
    """The fastest precision for models of this config on this device, at errors that training bears.

    On a GPU it is bfloat16 where the GPU has it. On a CPU products of the model's own widths are timed, for
    less than half a second; a wide model computes in bfloat16 unless that is clearly slower, since float32
    would double its memory. The choice and its reason are logged in one sentence.

    Args:
        config: The transformers config of the base model.
        device: Where the model will lie.
        remedy: What ends the sentence, empty where nobody can choose another format.
        seconds_of: Gives the seconds that a function takes; None times it.
    """
    chosen, reason = _choice(config, device, seconds_of or _seconds_of)
    log.info("The base model computes in %s: %s%s.", chosen.dtype, reason, remedy)
    return chosen


def _choice(
    config: Any, device: torch.device, seconds_of: Callable[[Callable[[], object]], float]
) -> tuple[Precision, str]:
    if device.type == "cuda":
        if computes_in_bfloat16(device):
            return Precision(dtype="bfloat16"), "the GPU computes in it"
        return Precision(), "the GPU has no bfloat16"
    if device.type != "cpu":
        return Precision(), f"other formats are not tried on {device.type}"
    width, inner = _widths(config)
    if not width:
        return Precision(), "its config tells no hidden size, by which other formats are tried"
    if width < _LEAST_WIDTH:
        return Precision(), f"with {width} hidden units no other format would be faster"
    products = _Products(width, inner, seconds_of=seconds_of)
    if products.is_slow_in_bfloat16():
        return Precision(), "the processor has no instructions for bfloat16"
    gain = products.seconds("float32") / products.seconds("bfloat16")
    least = _LEAST_GAIN if width < _WIDE else _LEAST_GAIN_WIDE
    is_clear = gain >= least and products.error() <= _LARGEST_ERROR
    speeds = f"bfloat16 takes {1 / gain:.2f} of float32's time in products of {width} and {inner} features"
    return Precision(dtype="bfloat16" if is_clear else "float32"), speeds


class _Products:
    """Products as in the model's feed-forward maps, in each format; weights are held in that format."""

    def __init__(
        self, width: int, inner: int, *, seconds_of: Callable[[Callable[[], object]], float]
    ) -> None:
        generator = torch.Generator().manual_seed(0)
        self._inputs = torch.randn(_TOKENS, width, generator=generator)
        self._weight = torch.randn(inner, width, generator=generator)
        self._low_weight = self._weight.bfloat16()
        self._seconds_of = seconds_of

    def seconds(self, name: str) -> float:
        """Seconds of a product in the format `float32` or `bfloat16`."""
        with torch.no_grad(), Precision().multiplying():
            return self._fastest(self._product(name))

    def error(self) -> float:
        """The relative error of some rows of the product in bfloat16."""
        with torch.no_grad():
            computed = self._product("bfloat16")().double()[:_FIRST_TOKENS]
        exact = self._inputs[:_FIRST_TOKENS].double() @ self._weight.double().T
        return float((computed - exact).norm() / exact.norm())

    def is_slow_in_bfloat16(self) -> bool:
        """Whether a small product in bfloat16 takes many times as long as in float32."""
        rows = self._inputs[:_FIRST_TOKENS, :_FIRST_WIDTH].contiguous()
        weight = self._weight[:_FIRST_WIDTH, :_FIRST_WIDTH].contiguous()
        low_rows, low_weight = rows.bfloat16(), weight.bfloat16()
        with torch.no_grad():
            exact = self._fastest(lambda: F.linear(rows, weight))
            return self._fastest(lambda: F.linear(low_rows, low_weight)) > _SLOWEST_FIRST * exact

    def _fastest(self, product: Callable[[], object]) -> float:
        product()  # the first call prepares kernels
        return min(self._seconds_of(product) for _ in range(_REPEATS))

    def _product(self, name: str) -> Callable[[], torch.Tensor]:
        if name == "bfloat16":
            return lambda: F.linear(self._inputs.bfloat16(), self._low_weight)
        return lambda: F.linear(self._inputs, self._weight)


def _widths(config: Any) -> tuple[int, int]:
    """Hidden units and units of the feed-forward maps, at most 1024 each; 0 where the config tells none."""
    text = config.get_text_config()
    named = getattr(text, "hidden_size", None) or getattr(text, "num_features", None)  # of timm models
    width = named if isinstance(named, int) else 0
    inner = getattr(text, "intermediate_size", None)  # GPT-2 and T5 call it otherwise, and have 4 x
    inner = inner if isinstance(inner, int) else 4 * width
    return min(width, _WIDEST), min(inner, _WIDEST)


def _seconds_of(function: Callable[[], object]) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started

"""Contexts in which forward passes keep and compute less: no cache, checkpoints, quick attention."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, cast

import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers.integrations import sdpa_attention
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

from autopeft.errors import ModelError, first_line_of
from autopeft.model.devices import devices_of

# What transformers' layers read in training mode. They are set here, since the methods of the model that set
# them were renamed in transformers 5.
_SWITCH, _FUNCTION = "gradient_checkpointing", "_gradient_checkpointing_func"
_FUSED = "sdpa"  # the attention that transformers chooses by default; `quick_attention` changes no other


def can_checkpoint(model: nn.Module) -> bool:
    """Return whether the layers of a model, with or without adapters, can be checkpointed."""
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    return bool(getattr(base, "supports_gradient_checkpointing", False)) and bool(_switches(base))


@contextlib.contextmanager
def checkpointed(model: nn.Module) -> Iterator[None]:
    """Checkpoint the layers of a model in training mode within a context; dropout draws repeat."""
    names = (_SWITCH, _FUNCTION)
    old = [(module, {n: vars(module)[n] for n in names if n in vars(module)}) for module in _switches(model)]
    try:
        for module, _ in old:
            setattr(module, _SWITCH, True)
            setattr(module, _FUNCTION, partial(_checkpoint, devices=devices_of(model)))
        with without_cache(model):  # transformers would warn of one
            yield
    finally:
        for module, attributes in old:
            for name in names:
                vars(module).pop(name, None)
            vars(module).update(attributes)


def _checkpoint(layer: Callable[..., Any], *args: Any, devices: Sequence[torch.device]) -> Any:
    """Checkpoint a layer; its dropout repeats on whatever device it draws.

    Torch saves the random state of its arguments' devices only, and transformers 5.20 passes them before
    accelerate moves them to the layer's device. So torch gets an empty tensor of each further device.
    """
    marks = [torch.empty(0, device=device) for device in devices[1:]]
    return checkpoint(lambda *values: layer(*values[len(marks) :]), *marks, *args, use_reentrant=False)


def _switches(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if hasattr(module, _SWITCH)]


@contextlib.contextmanager
def without_cache(model: nn.Module) -> Iterator[None]:
    """Keep forward passes from filling a cache within a context, unless asked to, as by `generate`.

    Language models fill one by default. It costs a copy of all keys and values, and layers that fill it
    cannot be skipped or checkpointed.
    """
    config = getattr(model.get_base_model() if isinstance(model, PeftModel) else model, "config", None)
    old = getattr(config, "use_cache", None)
    if not old:
        yield
        return
    config.use_cache = False  # type: ignore[union-attr]
    try:
        yield
    finally:
        config.use_cache = old  # type: ignore[union-attr]


class PaddingAwareMask(Tensor):
    """An attention mask (B, …, T) that records its padding, so that no pass must wait for the device.

    Padding is any 0. If `is_right_padded`, no token comes after padding in its row. A cast, a copy on another
    device and a view keep the record; anything else that is made of the mask is a plain tensor.
    """

    has_padding: bool
    is_right_padded: bool

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        with torch._C.DisableTorchFunctionSubclass():
            made = func(*args, **(kwargs or {}))
        if func not in (Tensor.to, Tensor.view) or not isinstance(args[0], cls) or made is args[0]:
            return made
        has_other_bytes = func is Tensor.view and made.dtype != args[0].dtype
        if has_other_bytes:
            return made
        # Rows of another length may begin within the old ones.
        is_right_padded = args[0].is_right_padded and made.shape[-1] == args[0].shape[-1]
        return _with_padding_flags(made, has_padding=args[0].has_padding, is_right_padded=is_right_padded)


def padding_aware(mask: Tensor, *, seen_as: Tensor) -> PaddingAwareMask:
    """Record the padding of a mask, which is read from `seen_as`, the same mask on the CPU."""
    has_padding = bool((seen_as == 0).any())
    is_right_padded = not bool((seen_as[..., 1:] > seen_as[..., :-1]).any())
    return _with_padding_flags(mask, has_padding=has_padding, is_right_padded=is_right_padded)


def _with_padding_flags(mask: Tensor, *, has_padding: bool, is_right_padded: bool) -> PaddingAwareMask:
    aware = mask.as_subclass(PaddingAwareMask)
    aware.has_padding, aware.is_right_padded = has_padding, is_right_padded
    return aware


def uses_padding_aware_masks(model: nn.Module) -> bool:
    """Return whether a model makes its masks by the function that `quick_attention` replaces."""
    return getattr(getattr(model, "config", None), "_attn_implementation", None) == _FUSED


def set_attention(model: nn.Module, kind: str) -> None:
    """Set the attention kernels of a model; raise ModelError if it cannot, or a package is missing."""
    reason = f"{type(model).__name__} does not let its attention be set"
    with contextlib.suppress(AttributeError):  # of a model of another library
        try:
            cast(Any, model).set_attn_implementation(kind)
        except (ImportError, ValueError) as error:
            reason = first_line_of(error).rstrip(".")
    if getattr(getattr(model, "config", None), "_attn_implementation", None) != kind:
        raise ModelError(f"--attn {kind} is not possible here ({reason}); leave it out, or try --attn sdpa.")


@contextlib.contextmanager
def quick_attention() -> Iterator[None]:
    """Make transformers use fast attention kernels, and never wait for the device to look at a mask.

    Without flash attention, keys are repeated for the queries of their group. Otherwise a model with grouped
    queries could only use the kernel that writes all T × T products.

    Fast kernels take no mask. So a `PaddingAwareMask` becomes None in two cases, else the usual mask:

    1. There is no padding: the attention is then plain or causal.
    2. All padding comes last and the attention is causal: no token attends to what comes after it, and the
       outputs at padding are not used.
    """
    make_mask: Callable[..., Tensor | None] = ALL_MASK_ATTENTION_FUNCTIONS[_FUSED]

    def make(*, attention_mask: Tensor | None = None, **arguments: Any) -> Tensor | None:
        if not isinstance(attention_mask, PaddingAwareMask):
            return make_mask(attention_mask=attention_mask, **arguments)
        n_keys = attention_mask.shape[-1]
        is_square = arguments.get("q_length") == n_keys or arguments.get("allow_is_causal_skip") is False
        if arguments.get("kv_length") != n_keys or arguments.get("kv_offset", 0) != 0 or not is_square:
            return make_mask(attention_mask=attention_mask.as_subclass(Tensor), **arguments)
        is_causal = arguments.get("allow_is_causal_skip") is True  # and nothing else is masked
        if not attention_mask.has_padding or (attention_mask.is_right_padded and is_causal):
            return make_mask(attention_mask=None, **arguments)
        never = {"allow_is_causal_skip": False, "allow_is_bidirectional_skip": False}
        return make_mask(attention_mask=attention_mask.as_subclass(Tensor), **{**arguments, **never})

    groups: Callable[..., bool] = sdpa_attention.use_gqa_in_sdpa

    def groups_for_flash(attention_mask: Tensor | None, key: Tensor, *values: Tensor) -> bool:
        return groups(attention_mask, key, *values) and (key.device.type != "cuda" or _flash_takes(key))

    ALL_MASK_ATTENTION_FUNCTIONS[_FUSED] = make
    sdpa_attention.use_gqa_in_sdpa = groups_for_flash
    try:
        yield
    finally:
        sdpa_attention.use_gqa_in_sdpa = groups
        del ALL_MASK_ATTENTION_FUNCTIONS[_FUSED]
        if ALL_MASK_ATTENTION_FUNCTIONS[_FUSED] is not make_mask:  # inside another such context
            ALL_MASK_ATTENTION_FUNCTIONS[_FUSED] = make_mask


def _flash_takes(keys: Tensor) -> bool:
    """Return whether flash attention takes keys on a GPU: from Ampere on, in 16 bits, also of autocast."""
    kind = keys.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else keys.dtype
    is_new = bool(torch.version.hip) or torch.cuda.get_device_capability(keys.device) >= (8, 0)
    return is_new and dtype in (torch.float16, torch.bfloat16)

"""Contexts in which training passes keep and wait less: no cache, checkpoints, kernels of attention."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, cast

import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import masking_utils
from transformers.integrations import sdpa_attention

from autopeft.errors import ModelError, first_line_of
from autopeft.model.devices import devices_of

# What transformers' layers read in training mode. They are set here, since the methods of the model that set
# them were renamed in transformers 5.
_SWITCH, _FUNCTION = "gradient_checkpointing", "_gradient_checkpointing_func"


def can_checkpoint(model: nn.Module) -> bool:
    """Return whether the layers of a model, with or without adapters, can be checkpointed."""
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    return bool(getattr(base, "supports_gradient_checkpointing", False)) and bool(_switches(base))


@contextlib.contextmanager
def checkpointed(model: nn.Module) -> Iterator[None]:
    """Checkpoint the layers of a model in training mode within a context."""
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
    """Keep forward passes from filling a cache within a context, except in `generate`.

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


def set_attention(model: nn.Module, kind: str) -> None:
    """Set the attention kernels of a model; raise ModelError if it cannot."""
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
    """Use the kernels of attention that are fast for batches of changing shapes, within a context.

    1. Keys are repeated for grouped queries, unless flash attention takes them. Otherwise such a model
       without a mask could only use the kernel that writes all T × T products.
    2. cuDNN's kernel, which torch prefers on Hopper and Blackwell, is off: it compiles a plan for every new
       shape, 0.44 s forward and 0.55 s backward on a B200 (FunASR issue 3704), and nearly all batches differ.
    3. In batches without a mask, transformers does not look for several texts in a row. Ours have none, and a
       GPU would be waited for.

    A checkpointed layer is computed again in the backward pass, which belongs into the same context.
    """
    groups: Callable[..., bool] = sdpa_attention.use_gqa_in_sdpa

    def groups_for_flash(attention_mask: Tensor | None, key: Tensor, *values: Tensor) -> bool:
        return groups(attention_mask, key, *values) and (key.device.type != "cuda" or _flash_takes(key))

    find_texts = masking_utils.find_packed_sequence_indices
    cudnn = torch.backends.cuda.cudnn_sdp_enabled()  # type: ignore[no-untyped-call]
    sdpa_attention.use_gqa_in_sdpa = groups_for_flash
    torch.backends.cuda.enable_cudnn_sdp(False)
    masking_utils.find_packed_sequence_indices = lambda position_ids: None
    try:
        yield
    finally:
        masking_utils.find_packed_sequence_indices = find_texts
        torch.backends.cuda.enable_cudnn_sdp(cudnn)
        sdpa_attention.use_gqa_in_sdpa = groups


def _flash_takes(keys: Tensor) -> bool:
    """Return whether flash attention takes keys on a GPU: from Ampere on, in 16 bits."""
    kind = keys.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else keys.dtype
    is_new = bool(torch.version.hip) or torch.cuda.get_device_capability(keys.device) >= (8, 0)
    return is_new and dtype in (torch.float16, torch.bfloat16)

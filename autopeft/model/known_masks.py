"""Attention masks whose padding was looked for on the CPU, so that no forward pass asks the device for it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

_FUSED = "sdpa"  # the attention that transformers chooses by default, and the only one that is looked after

MakeMask = Callable[..., Tensor | None]


class KnownMask(Tensor):
    """An attention mask (B, …, T) of which it is known whether it has padding, which is any 0.

    A cast of it, a copy on another device and its numbers in another shape are known too. All else that is
    made of it is a plain tensor: its padding is not known.
    """

    has_padding: bool

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run a function of torch on the mask as on a plain tensor."""
        with torch._C.DisableTorchFunctionSubclass():
            made = func(*args, **(kwargs or {}))
        if func not in (Tensor.to, Tensor.view) or not isinstance(args[0], cls) or made is args[0]:
            return made
        has_other_bytes = func is Tensor.view and made.dtype != args[0].dtype
        return made if has_other_bytes else known_mask(made, has_padding=args[0].has_padding)


def known_mask(mask: Tensor, *, has_padding: bool) -> KnownMask:
    """The mask itself, with what is known of it."""
    known = mask.as_subclass(KnownMask)
    known.has_padding = has_padding
    return known


def heeds_known_masks(model: nn.Module) -> bool:
    """Whether a model asks for its masks where `heeding_known_masks` can answer."""
    return getattr(getattr(model, "config", None), "_attn_implementation", None) == _FUSED


@contextlib.contextmanager
def heeding_known_masks() -> Iterator[None]:
    """A context in which models of transformers make their masks of a `KnownMask` without a look at it.

    They make what they would make otherwise: nothing where there is no padding, since the attention is then
    plain or causal.
    """
    before = ALL_MASK_ATTENTION_FUNCTIONS[_FUSED]

    def make(**arguments: Any) -> Tensor | None:
        return _make_mask(before, **arguments)

    ALL_MASK_ATTENTION_FUNCTIONS[_FUSED] = make
    try:
        yield
    finally:
        del ALL_MASK_ATTENTION_FUNCTIONS[_FUSED]
        if ALL_MASK_ATTENTION_FUNCTIONS[_FUSED] is not before:  # within another such context
            ALL_MASK_ATTENTION_FUNCTIONS[_FUSED] = before


def _make_mask(make: MakeMask, *, attention_mask: Tensor | None = None, **arguments: Any) -> Tensor | None:
    """What `make` makes; the same with less to ask where the mask is known and covers all keys."""
    if not isinstance(attention_mask, KnownMask):
        return make(attention_mask=attention_mask, **arguments)
    n_keys = attention_mask.shape[-1]
    is_square = arguments.get("q_length") == n_keys or arguments.get("allow_is_causal_skip") is False
    if arguments.get("kv_length") != n_keys or arguments.get("kv_offset", 0) != 0 or not is_square:
        return make(attention_mask=attention_mask.as_subclass(Tensor), **arguments)
    if not attention_mask.has_padding:
        return make(attention_mask=None, **arguments)
    never = {"allow_is_causal_skip": False, "allow_is_bidirectional_skip": False}
    return make(attention_mask=attention_mask.as_subclass(Tensor), **{**arguments, **never})

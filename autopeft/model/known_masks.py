"""Attention masks whose padding was looked for on the CPU, so that no forward pass asks the device for it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

_FUSED = "sdpa"  # the attention that transformers chooses by default, and the only one that is looked after


class KnownMask(Tensor):
    """An attention mask (B, …, T) of which it is known whether and where it has padding, which is any 0.

    A cast of it, a copy on another device and its numbers in another shape are known too. All else that is
    made of it is a plain tensor: its padding is not known. `is_right_padded` says that no token comes after
    padding in its row.
    """

    has_padding: bool
    is_right_padded: bool

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
        if has_other_bytes:
            return made
        # Rows in another shape may begin within those of before.
        is_right_padded = args[0].is_right_padded and made.shape[-1] == args[0].shape[-1]
        return _noted(made, has_padding=args[0].has_padding, is_right_padded=is_right_padded)


def known_mask(mask: Tensor, *, seen_as: Tensor) -> KnownMask:
    """The mask itself, with what is known of it; `seen_as` has the same numbers, on the CPU."""
    has_padding = bool((seen_as == 0).any())
    is_right_padded = not bool((seen_as[..., 1:] > seen_as[..., :-1]).any())
    return _noted(mask, has_padding=has_padding, is_right_padded=is_right_padded)


def _noted(mask: Tensor, *, has_padding: bool, is_right_padded: bool) -> KnownMask:
    known = mask.as_subclass(KnownMask)
    known.has_padding, known.is_right_padded = has_padding, is_right_padded
    return known


def heeds_known_masks(model: nn.Module) -> bool:
    """Whether a model asks for its masks where `heeding_known_masks` can answer."""
    return getattr(getattr(model, "config", None), "_attn_implementation", None) == _FUSED


@contextlib.contextmanager
def heeding_known_masks() -> Iterator[None]:
    """A context in which models of transformers make their masks of a `KnownMask` without a look at it.

    They make what they would make otherwise: nothing where there is no padding, since the attention is then
    plain or causal. Nor where all padding comes last and the attention is causal: no token attends to what
    comes after it, and what padding computes is not used. Fast kernels take no masks, at least on GPUs.
    """
    before: Callable[..., Tensor | None] = ALL_MASK_ATTENTION_FUNCTIONS[_FUSED]

    def make(*, attention_mask: Tensor | None = None, **arguments: Any) -> Tensor | None:
        if not isinstance(attention_mask, KnownMask):
            return before(attention_mask=attention_mask, **arguments)
        n_keys = attention_mask.shape[-1]
        is_square = arguments.get("q_length") == n_keys or arguments.get("allow_is_causal_skip") is False
        if arguments.get("kv_length") != n_keys or arguments.get("kv_offset", 0) != 0 or not is_square:
            return before(attention_mask=attention_mask.as_subclass(Tensor), **arguments)
        is_causal = arguments.get("allow_is_causal_skip") is True  # and nothing else is masked
        if not attention_mask.has_padding or (attention_mask.is_right_padded and is_causal):
            return before(attention_mask=None, **arguments)
        never = {"allow_is_causal_skip": False, "allow_is_bidirectional_skip": False}
        return before(attention_mask=attention_mask.as_subclass(Tensor), **{**arguments, **never})

    ALL_MASK_ATTENTION_FUNCTIONS[_FUSED] = make
    try:
        yield
    finally:
        del ALL_MASK_ATTENTION_FUNCTIONS[_FUSED]
        if ALL_MASK_ATTENTION_FUNCTIONS[_FUSED] is not before:  # within another such context
            ALL_MASK_ATTENTION_FUNCTIONS[_FUSED] = before

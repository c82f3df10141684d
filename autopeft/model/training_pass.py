"""Forward passes that keep and compute less: no cache, checkpoints, quick attention, skipped layers."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint
from transformers.integrations import sdpa_attention
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

from autopeft.errors import ModelError, first_line_of
from autopeft.model.devices import forked_rng, is_out_of_memory, random_state

# What transformers' layers look at in training mode. They are set here, since the methods of the model that
# set them were renamed in transformers 5.
_SWITCH, _FUNCTION = "gradient_checkpointing", "_gradient_checkpointing_func"
_FUSED = "sdpa"  # the attention that transformers chooses by default, and the only one that is looked after
# Inputs of a call whose layers must all run: they use a cache, or return what lies between layers.
_WHOLE_CALL = ("cache", "past_key_values", "output_hidden_states", "output_attentions")
_TRIED_ROWS = 2  # of a batch; a few say as much as all, and take no more memory than a step; by hand
Batch = dict[str, Any]
Loss = Callable[[nn.Module, Batch], Tensor]
Output = Tensor | tuple[Any, ...]  # of a layer

log = logging.getLogger(__name__)


def can_checkpoint(model: nn.Module) -> bool:
    """Whether the layers of a model, with or without adapters, can be checkpointed."""
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    return bool(getattr(base, "supports_gradient_checkpointing", False)) and bool(_switches(base))


@contextlib.contextmanager
def checkpointed(model: nn.Module) -> Iterator[None]:
    """Checkpoint the layers of a model in training mode inside a context; dropout draws repeat."""
    names = (_SWITCH, _FUNCTION)
    old = [(module, {n: vars(module)[n] for n in names if n in vars(module)}) for module in _switches(model)]
    try:
        for module, _ in old:
            setattr(module, _SWITCH, True)
            setattr(module, _FUNCTION, partial(checkpoint, use_reentrant=False))
        with without_cache(model):  # transformers would warn of one
            yield
    finally:
        for module, attributes in old:
            for name in names:
                vars(module).pop(name, None)
            vars(module).update(attributes)


def _switches(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if hasattr(module, _SWITCH)]


@contextlib.contextmanager
def without_cache(model: nn.Module) -> Iterator[None]:
    """Let forward passes fill no cache inside a context, unless they are asked to, as by `generate`.

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
    """An attention mask (B, …, T) that remembers its padding, so that no pass must ask the device for it.

    Padding is any 0. `is_right_padded` says that no token comes after padding in its row. A cast, a copy on
    another device and a view remember too; anything else that is made of the mask is a plain tensor.
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
        # Rows of another length may begin within the old ones.
        is_right_padded = args[0].is_right_padded and made.shape[-1] == args[0].shape[-1]
        return _noted(made, has_padding=args[0].has_padding, is_right_padded=is_right_padded)


def padding_aware(mask: Tensor, *, seen_as: Tensor) -> PaddingAwareMask:
    """Make a mask remember its padding, which is read from `seen_as`, the same mask on the CPU."""
    has_padding = bool((seen_as == 0).any())
    is_right_padded = not bool((seen_as[..., 1:] > seen_as[..., :-1]).any())
    return _noted(mask, has_padding=has_padding, is_right_padded=is_right_padded)


def _noted(mask: Tensor, *, has_padding: bool, is_right_padded: bool) -> PaddingAwareMask:
    noted = mask.as_subclass(PaddingAwareMask)
    noted.has_padding, noted.is_right_padded = has_padding, is_right_padded
    return noted


def uses_padding_aware_masks(model: nn.Module) -> bool:
    """Whether a model makes its masks by the function that `quick_attention` replaces."""
    return getattr(getattr(model, "config", None), "_attn_implementation", None) == _FUSED


def set_attention(model: nn.Module, kind: str) -> None:
    """Let a model use other kernels of attention; raises ModelError if it cannot, or a package is missing."""
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
    """Let models of transformers use quick kernels of attention, and wait for the device for no mask.

    Where flash attention is not to be had, keys are repeated for the queries of their group: with fewer heads
    of keys than of queries only the kernel that writes all T x T products would be left.

    Of a `PaddingAwareMask` they make the mask that they would make otherwise, and none, since fast kernels
    take none, if

    1. there is no padding: the attention is then plain or causal;
    2. all padding comes last and the attention is causal: no token attends to what comes after it, and the
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
    """Whether flash attention takes keys on a GPU: from Ampere on, in 16 bits, also of autocast."""
    kind = keys.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else keys.dtype
    is_new = bool(torch.version.hip) or torch.cuda.get_device_capability(keys.device) >= (8, 0)
    return is_new and dtype in (torch.float16, torch.bfloat16)


@dataclass(frozen=True, kw_only=True)
class KnownOutput:
    """The output of the lowest `n_layers` layers for a batch, as the last of them returned it."""

    n_layers: int
    output: Output

    @property
    def tensors(self) -> list[Tensor]:
        """The tensors of the output."""
        parts = self.output if isinstance(self.output, tuple) else (self.output,)
        return [part for part in parts if isinstance(part, Tensor)]

    @property
    def n_bytes(self) -> int:
        """Bytes that the output takes."""
        return sum(tensor.untyped_storage().nbytes() for tensor in self.tensors)

    @property
    def is_constant(self) -> bool:
        """Whether the output depends on nothing that trains."""
        return not any(tensor.requires_grad for tensor in self.tensors)


@dataclass(kw_only=True)
class FrozenPrefix:
    """The layers of an attached model below everything that trains, from the first one up.

    Embeddings, masks and rotary angles are still computed by the model, so that the same few lines serve
    every layout of layers. Inside `installed`, layers whose output is known are skipped in calls with the
    tensors of the batch that `expect` announced last. All other calls, such as those of `generate`, run as
    always.

    Attributes:
        model: The model with its adapters.
        layers: Those that may be skipped; at least one.
        callers: The modules that call each other down to the layers, the model first.
        trained_outside: Names of the trained parameters that lie in no layer, such as the task head.
    """

    model: nn.Module
    layers: Sequence[nn.Module]
    callers: Sequence[nn.Module]
    trained_outside: tuple[str, ...]
    _inputs: tuple[Tensor, ...] = ()
    _output: KnownOutput | None = None
    _keep: Callable[[KnownOutput], None] | None = None
    _is_called: bool = False

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """Let the model skip its frozen layers inside a context."""
        with contextlib.ExitStack() as stack:
            for module in self.callers:
                stack.enter_context(_replaced(module, functools.partial(self._call, module.forward)))
            for index, layer in enumerate(self.layers):
                stack.enter_context(_replaced(layer, functools.partial(self._run, layer.forward, index)))
            yield

    def expect(
        self, batch: Mapping[str, Any], output: KnownOutput | None, keep: Callable[[KnownOutput], None] | None
    ) -> None:
        """Announce the batch of the next calls, the known output for it, and who keeps a new output."""
        self._inputs = tuple(value for value in batch.values() if isinstance(value, Tensor))
        self._output, self._keep = output, keep

    def _call(self, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run a caller's forward; note whether it got the tensors of the expected batch, and no others."""
        tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
        is_expected = bool(tensors) and all(any(t is value for value in self._inputs) for t in tensors)
        is_whole = any(kwargs.get(name) for name in _WHOLE_CALL)
        if self._is_called or not is_expected or is_whole:
            return forward(*args, **kwargs)
        self._is_called = True
        try:
            return forward(*args, **kwargs)
        finally:
            self._is_called = False

    def _run(self, forward: Callable[..., Any], index: int, *args: Any, **kwargs: Any) -> Any:
        """Run a layer's forward; a skipped layer returns the known output of the last skipped one."""
        if not self._is_called:
            return forward(*args, **kwargs)
        if self._output is not None and index < self._output.n_layers:
            return self._output.output
        output = forward(*args, **kwargs)
        if index == len(self.layers) - 1 and self._keep is not None:
            self._keep(KnownOutput(n_layers=len(self.layers), output=output))
        return output


def frozen_prefix(model: nn.Module) -> FrozenPrefix | None:
    """Find the layers of a model below everything that trains; None if there are none, or nothing trains."""
    lists: dict[str, nn.ModuleList] = {}  # those that lie in no other
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and not any(name.startswith(f"{outer}.") for outer in lists):
            lists[name] = module
    longest = max(lists, key=lambda name: len(lists[name]), default="")  # the first of equal ones
    path, layers = longest.split("."), list(lists.get(longest, ()))
    is_trained = [any(p.requires_grad for p in layer.parameters()) for layer in layers]
    n_frozen = [*is_trained, True].index(True)
    inside = {id(parameter) for layer in layers for parameter in layer.parameters()}
    trained = {name: id(p) for name, p in model.named_parameters() if p.requires_grad}
    if not n_frozen or not trained:
        return None
    return FrozenPrefix(
        model=model,
        layers=layers[:n_frozen],
        callers=[model.get_submodule(".".join(path[:i])) for i in range(len(path))],
        trained_outside=tuple(name for name, key in trained.items() if key not in inside),
    )


def skips_exactly(prefix: FrozenPrefix, loss: Loss, batch: Batch) -> bool:
    """Whether skipping the frozen layers leaves loss and gradients of a few rows the same to the bit.

    It does not if something that trains lies below the layers (the embeddings), or if layers draw random
    numbers (dropout), pass on more than their output, run twice, or write into their input.

    The loss alone is compared in an evaluation, which has no gradients, and on a GPU, some of whose backward
    kernels add in any order. Nothing is kept for a backward pass then: there may be no room for it.
    """
    kept: list[KnownOutput] = []
    states: list[Tensor] = []
    device = next(prefix.model.parameters()).device
    has_gradients = prefix.model.training and device.type != "cuda"

    def keep(output: KnownOutput) -> None:
        kept.append(output)
        states.append(random_state(device))
        torch.set_grad_enabled(has_gradients)  # in the layers above, and from now on

    def attempt(output: KnownOutput | None) -> list[Tensor]:
        with forked_rng(device):
            prefix.expect(batch, output, keep)
            trained = [parameter for parameter in prefix.model.parameters() if parameter.requires_grad]
            value = loss(prefix.model, batch)
            if not torch.is_grad_enabled():
                return [value.detach()]
            gradients = torch.autograd.grad(value, trained, allow_unused=True)
            return [value.detach(), *(gradient for gradient in gradients if gradient is not None)]

    # In an evaluation gradients are off otherwise, and they tell whether an output depends on what trains.
    with torch.inference_mode(False), torch.enable_grad():
        batch = {n: v[:_TRIED_ROWS].clone() if isinstance(v, Tensor) else v for n, v in batch.items()}
        states.append(random_state(device))
        try:
            whole = attempt(None)
            is_constant = len(kept) == 1 and torch.equal(*states) and kept[0].is_constant
            inner = (module for layer in prefix.layers for module in layer.modules())
            # Running statistics that training updates would be left out.
            counts_batches = prefix.model.training and any(isinstance(m, _BatchNorm) for m in inner)
            if not is_constant or counts_batches:
                return False
            skipped = attempt(kept[0])
        except (RuntimeError, ValueError, TypeError, IndexError, AttributeError) as error:
            if is_out_of_memory(error):  # which says nothing of the layers
                raise
            log.debug("The frozen layers cannot be skipped", exc_info=True)
            return False
    # As bytes, in which a loss that diverged to NaN equals itself.
    pairs = [[t.contiguous().reshape(-1).view(torch.uint8) for t in tensors] for tensors in (whole, skipped)]
    return len(whole) == len(skipped) and all(map(torch.equal, *pairs))


@contextlib.contextmanager
def _replaced(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Give a module another forward inside a context, with the signature of its own."""
    old = vars(module).get("forward")
    module.forward = functools.update_wrapper(forward, module.forward)
    try:
        yield
    finally:
        del module.forward
        if old is not None:
            module.forward = old

"""Counts the storages that are alive while torch computes, of real or fake tensors, and the operations.

Hooks on the layers of a model separate the phases of a training step. In a phase memory rises or falls by as
much at every layer, so that its peak is a straight line of the number of layers, from three layers on. The
peak of a whole step is not: it is the highest of these lines.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from autopeft.estimate.rates import Rates

_ATEN = torch.ops.aten
_ATTENTION = _ATEN._scaled_dot_product_flash_attention_for_cpu  # torch's registry has GPUs' alone
_ATTENTION_BACKWARD = _ATEN._scaled_dot_product_flash_attention_for_cpu_backward
_EXPERTS = _ATEN._grouped_mm  # not in torch's registry
_LOOK_UPS = (_ATEN.embedding, _ATEN.index, _ATEN.gather, _ATEN.index_select)
FORWARD, HEAD = "forward pass", "output layer and loss"
LAST_LAYER, UPPER_LAYERS, FIRST_LAYER = "backward, last layer", "backward, layers", "backward, first layer"
BACKWARD, OPTIMIZER = "backward pass", "optimizer step"  # the first if no layers are known
_DEVICE = torch.ops.prim.device.default  # only fake tensors ask for their device by an operation
_NO_KERNELS = (_ATEN.empty, _ATEN.empty_like, _ATEN._unsafe_view)


class MemoryTracker(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A context that counts the bytes of every storage from its first use until it is freed.

    Not counted are memory that a kernel frees before it returns, and what an allocator rounds up or keeps in
    reserve. A step has phases, such as forward and backward.
    """

    def __init__(self, rates: Rates | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._rates = rates
        self.n_calls = 0  # kernels
        self.busy_seconds = 0.0  # in which they compute at the rates of a device; 0 without rates
        self.now = 0  # bytes alive
        self.flops = 0  # floating-point operations of products and attention
        self.peaks: dict[str, int] = {}  # the most bytes alive at once in each phase
        self.at_start: dict[str, int] = {}  # bytes alive when a phase was last entered
        self.phase = ""
        self._top = 0
        self._alive: set[int] = set()

    def watch(self, tensors: Iterable[torch.Tensor]) -> int:
        """Count tensors that exist already; return their bytes, each storage once."""
        n_bytes = self.now
        for tensor in tensors:
            self._add(tensor)
        return self.now - n_bytes

    def enter(self, phase: str) -> None:
        """Begin a phase, or return to it; what is alive now counts for its peak."""
        self.phase = phase
        self.at_start[phase] = self.now
        self._top = self.peaks.get(phase, -1)
        self._note_peak()

    def _note_peak(self) -> None:
        if self.now > self._top:
            self._top = self.peaks[self.phase] = self.now

    def _add(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self._alive:
            n_bytes = storage.nbytes()
            self._alive.add(key)
            self.now += n_bytes
            self._note_peak()
            # Torch keeps a storage's Python object for as long as the storage lives, whoever holds it.
            weakref.finalize(storage, self._drop, key, n_bytes)

    def _drop(self, key: int, n_bytes: int) -> None:
        self._alive.discard(key)
        self.now -= n_bytes

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is _DEVICE and not args[0].fake_mode.in_kernel_invocation:
            return args[0].fake_device  # a shortcut: autograd asks for it very often
        result = func(*args, **(kwargs or {}))
        self._note_work(func, args, kwargs or {}, result)
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self._add(leaf)
        return result

    def _note_work(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], result: Any) -> None:
        kernel = getattr(func, "_overloadpacket", None)
        flops = _flops(func, args, kwargs, result)
        self.flops += flops
        if func.namespace == "prim" or func.is_view or kernel in _NO_KERNELS:
            return  # it computes nothing
        self.n_calls += 1
        if self._rates is not None:
            written = _bytes_of(result)
            read = written if kernel in _LOOK_UPS else _bytes_of((args, kwargs))
            self.busy_seconds += self._rates.of_kernel(flops, read + written)


def _bytes_of(values: Any) -> int:
    return sum(leaf.nbytes for leaf in tree_leaves(values) if isinstance(leaf, torch.Tensor))


def _flops(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], result: Any) -> int:
    """Count the floating-point operations of a kernel call; 0 unless it is a product or attention."""
    kernel = getattr(func, "_overloadpacket", None)
    if kernel in flop_registry:
        return int(flop_registry[kernel](*args, **kwargs, out_val=result))
    if kernel is _EXPERTS:  # each row is multiplied with the matrix of one expert
        return int(2 * args[0].numel() * args[1].shape[-1])
    if kernel is _ATTENTION:
        return 2 * _product(*args[:2])
    if kernel is _ATTENTION_BACKWARD:
        return 5 * _product(*args[1:3])  # the scores computed again, and four products of gradients
    return 0


def _product(queries: torch.Tensor, keys: torch.Tensor) -> int:
    return 2 * queries.numel() * keys.shape[-2]


def repeated_layers(model: nn.Module) -> nn.ModuleList | None:
    """Find the layers of a model: its largest list of two or more modules of one class; None without one."""
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList) and len(module) > 1]
    stacks = [layers for layers in lists if len({type(layer) for layer in layers}) == 1]
    return max(stacks, key=lambda layers: sum(p.numel() for p in layers.parameters()), default=None)


@contextlib.contextmanager
def tracking_phases(model: nn.Module, tracker: MemoryTracker) -> Iterator[None]:
    """Begin phases by hooks on the layers of a model in this context; no effect without layers."""
    layers = repeated_layers(model)
    if layers is None:
        yield
        return
    handles = [
        layers[-1].register_forward_hook(partial(_end_body, tracker)),
        layers[0].register_forward_hook(partial(_begin_later, tracker, FIRST_LAYER)),
        layers[-2].register_forward_hook(partial(_begin_later, tracker, UPPER_LAYERS)),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _end_body(tracker: MemoryTracker, layer: nn.Module, inputs: Any, outputs: Any) -> None:
    if tracker.phase == FORWARD:  # not if a checkpointed layer is computed again
        _begin_later(tracker, LAST_LAYER, layer, inputs, outputs)
        tracker.enter(HEAD)


def _begin_later(tracker: MemoryTracker, phase: str, layer: nn.Module, inputs: Any, outputs: Any) -> None:
    """Begin a phase in the backward pass, when the gradient of a layer's outputs arrives, if they get one."""
    hidden = outputs[0] if isinstance(outputs, tuple) else outputs
    if tracker.phase == FORWARD and isinstance(hidden, torch.Tensor) and hidden.requires_grad:
        hidden.register_hook(lambda gradient: tracker.enter(phase))  # type: ignore[no-untyped-call]

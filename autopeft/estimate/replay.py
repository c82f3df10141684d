"""Runs one training step on fake tensors to count its memory, without weights and without a GPU."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from peft import PeftConfig, PeftModel
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional
from torch.optim import AdamW

from autopeft.adapters.skeleton import without_initial_values
from autopeft.errors import SpecError, reason_of
from autopeft.estimate.fake_tensors import StandInValues, make_fake
from autopeft.estimate.memory_tracker import (
    BACKWARD,
    FORWARD,
    HEAD,
    OPTIMIZER,
    MemoryTracker,
    tracking_phases,
)
from autopeft.estimate.rates import Rates
from autopeft.model import BaseModel, adapter_names, attach
from autopeft.model.attaching import attach_configs
from autopeft.model.light_layers import lighten
from autopeft.model.training_pass import can_checkpoint, checkpointed
from autopeft.plugins import Batch

# What torch and `peft` raise where code needs a value of a tensor without memory.
_VALUE_ERRORS = (
    *(NotImplementedError, RuntimeError, TypeError, ValueError, AssertionError),
    *(LookupError, AttributeError),
)
# Buffers that `peft` 0.21.2 makes on the CPU and never moves: BOFT's permutations, one matrix for each layer.
_LEFT_ON_CPU = ("boft_P",)


class UntracedError(SpecError):
    """A model or an adapter reads values of tensors, so that it cannot be replayed without weights."""


@dataclass(frozen=True, kw_only=True)
class TrainingStep:
    """What is computed in one step; a replay only uses the shapes of its batch, which is on the CPU."""

    batch: Batch
    loss: Callable[[nn.Module, Batch], torch.Tensor]
    n_terms: int = 0  # that the loss averages; 0 if it does not select any
    autocast: bool = False  # compute the loss under autocast to bfloat16
    checkpointing: bool = False
    foreach: bool = False  # AdamW goes over all parameters at once, with one more copy of the second moments
    on_gpu: bool = False  # with a GPU's autocast, without tensors that `peft` leaves on the CPU
    rates: Rates | None = None  # of the device whose time is counted; None counts no time


@dataclass(frozen=True, kw_only=True)
class StepMemory:
    """The memory and work of a training step, from the second on, when AdamW has its moments."""

    weights_bytes: int  # what stays frozen
    trained_bytes: int  # adapters and head
    optimizer_bytes: int  # AdamW's moments
    body_bytes: int  # what the forward pass adds up to its last layer
    peaks: Mapping[str, int]  # phase -> most bytes alive at once, weights included
    flops: int  # floating-point operations of products and attention
    n_calls: int = field(default=0, compare=False)  # kernels; a few less than with real tensors
    busy_seconds: float = field(default=0.0, compare=False)  # of the kernels by the rates; 0 without rates

    @property
    def peak_bytes(self) -> int:
        """The most bytes that are alive at once."""
        return max(self.peaks.values())


def without_weights(
    base: BaseModel,
    configs: Sequence[PeftConfig],
    *,
    task_type: str | None,
    dtype: torch.dtype,
    lightened: bool = True,
) -> PeftModel:
    """Attach adapters in float32 to a skeleton, in place, as the trainer does; without configs only the head.

    Frozen weights have the format `dtype`, except the task head. With `lightened`, layers are replaced by the
    lighter ones of our trainer.
    """
    set_dtype(base, dtype)
    base.widen_head()
    cheap = [without_initial_values(config) for config in configs]
    with _attaching():
        return attach(
            base.module, cheap, task_type=task_type, head_names=base.head_names, lightened=lightened
        )


def with_configs(
    base: BaseModel, configs: Sequence[PeftConfig], *, dtype: torch.dtype, lightened: bool = True
) -> PeftModel:
    """Attach configs that name their task and head to a skeleton in place; see `without_weights`."""
    set_dtype(base, dtype)
    cheap = [without_initial_values(config) for config in configs]
    with _attaching():
        adapted = attach_configs(base.module, cheap, names=adapter_names(configs))
    if lightened:
        lighten(adapted)
    return adapted


def set_dtype(base: BaseModel, dtype: torch.dtype) -> None:
    """Set the number format of a skeleton's weights; quantized weights keep theirs."""
    for parameter in base.module.parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(dtype)


@contextlib.contextmanager
def _attaching() -> Iterator[None]:
    with _without_values(), torch.device("meta"), StandInValues(attaching=True):
        yield


@contextlib.contextmanager
def _without_values() -> Iterator[None]:
    """Turn errors about missing values into an UntracedError within a context; torch does not log them."""
    log = logging.getLogger("torch._subclasses.fake_tensor")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    except _VALUE_ERRORS as error:
        raise UntracedError(
            f"The memory of this plan cannot be predicted without weights: {reason_of(error)}. Train a few "
            "steps to see it, or choose another method."
        ) from error
    finally:
        log.setLevel(level)


class Replay:
    """Replays training steps of a model without weights, as on a CPU.

    Fused attention has the same tensors on a GPU. With dropout, a CPU does not fuse attention, and its
    weights (B, heads, T, T) are counted too.
    """

    def __init__(self, model: nn.Module) -> None:
        """Use a model on the meta device, which becomes one of fake tensors."""
        self._model = model
        self._fake_mode = FakeTensorMode(allow_non_fake_inputs=True)
        make_fake(model, self._fake_mode)
        self._optimizers: dict[bool, _Optimizer] = {}  # by whether AdamW goes over all parameters at once

    def memory(self, step: TrainingStep) -> StepMemory:
        """Replay a training step and count its memory; raise UntracedError if a pass needs values."""
        mask_size = step.batch["labels"].numel() if step.n_terms else 0
        stand_ins = StandInValues(mask_size=mask_size, n_true=step.n_terms)
        with _without_values(), self._fake_mode, stand_ins:
            if step.foreach not in self._optimizers:
                self._optimizers[step.foreach] = _Optimizer(self._model, foreach=step.foreach)
            return _measured(self._model, step, self._optimizers[step.foreach])


class _Optimizer:
    """AdamW after its first step, with its moments."""

    def __init__(self, model: nn.Module, *, foreach: bool) -> None:
        self.trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.adamw = AdamW(self.trained, foreach=foreach)
        for parameter in self.trained:
            parameter.grad = torch.zeros_like(parameter)
        self.adamw.step()
        self.adamw.zero_grad()

    def moments(self) -> Iterator[torch.Tensor]:
        """Yield all tensors that AdamW keeps."""
        for state in self.adamw.state.values():
            yield from (value for value in state.values() if isinstance(value, torch.Tensor))

    def step(self, tracker: MemoryTracker) -> None:
        """Run a step, and drop the gradients."""
        tracker.enter(OPTIMIZER)
        nn.utils.clip_grad_norm_(self.trained, 1.0)
        self.adamw.step()
        self.adamw.zero_grad()


def measure(model: nn.Module, step: TrainingStep) -> StepMemory:
    """Run a training step of a model on its device and return its memory; its weights change."""
    return _measured(model, step, _Optimizer(model, foreach=step.foreach))


def _measured(model: nn.Module, step: TrainingStep, optimizer: _Optimizer) -> StepMemory:
    trained = optimizer.trained
    named = (*model.named_parameters(), *model.named_buffers())
    frozen = [
        tensor
        for name, tensor in named
        if not tensor.requires_grad and not (step.on_gpu and name.endswith(_LEFT_ON_CPU))
    ]
    with MemoryTracker(step.rates) as tracker:
        weights_bytes, trained_bytes = tracker.watch(frozen), tracker.watch(trained)
        optimizer_bytes = tracker.watch(optimizer.moments())
        tracker.peaks.clear()
        model.train()
        checkpointing = step.checkpointing and can_checkpoint(model)
        with (
            checkpointed(model) if checkpointing else contextlib.nullcontext(),
            gpu_autocast() if step.on_gpu else contextlib.nullcontext(),
            tracking_phases(model, tracker),
        ):
            body_bytes = _train(model, optimizer, step, tracker)
        return StepMemory(
            weights_bytes=weights_bytes,
            trained_bytes=trained_bytes,
            optimizer_bytes=optimizer_bytes,
            body_bytes=body_bytes,
            peaks=dict(tracker.peaks),
            flops=tracker.flops,
            n_calls=tracker.n_calls,
            busy_seconds=tracker.busy_seconds,
        )


def _train(model: nn.Module, optimizer: _Optimizer, step: TrainingStep, tracker: MemoryTracker) -> int:
    """Run one step; return the bytes that the forward pass added up to its last layer."""
    device = next(model.parameters()).device
    tracker.enter(FORWARD)
    at_start = tracker.now
    features = {name: tensor.to(device, copy=True) for name, tensor in step.batch.items()}
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=step.autocast):
        loss = step.loss(model, features)
    body_bytes = tracker.at_start.get(HEAD, tracker.now) - at_start
    if tracker.phase == FORWARD:  # no layers are known
        tracker.enter(BACKWARD)
    loss.backward()  # type: ignore[no-untyped-call]
    del loss, features
    optimizer.step(tracker)
    return body_bytes


@contextlib.contextmanager
def gpu_autocast() -> Iterator[None]:
    """Compute LayerNorm in float32 under a CPU's autocast in this context, as a GPU's does.

    We replace torch's function, since no mode of torch lasts in the backward pass, where checkpointing
    computes again.
    """
    plain = functional.layer_norm

    def layer_norm(*args: Any, **kwargs: Any) -> torch.Tensor:
        if torch.is_autocast_enabled("cpu"):
            args, kwargs = tuple(map(_widened, args)), {name: _widened(each) for name, each in kwargs.items()}
        return plain(*args, **kwargs)

    functional.layer_norm = layer_norm
    try:
        yield
    finally:
        functional.layer_norm = plain


def _widened(value: Any) -> Any:
    return value.float() if isinstance(value, torch.Tensor) else value

"""One training step on fake tensors: its memory, without weights, without a GPU."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from peft import PeftConfig, PeftModel
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.optim import AdamW, Optimizer

from autopeft.errors import SpecError, first_line_of
from autopeft.estimate.fake import StandInValues, make_fake
from autopeft.estimate.living_bytes import LivingBytes
from autopeft.extension import Batch
from autopeft.model import BaseModel, attach, checkpointed

# What torch and `peft` raise where code needs a value that a tensor without memory lacks.
_LACKS_VALUES = (NotImplementedError, RuntimeError, TypeError, ValueError, AssertionError)


@dataclass(frozen=True, kw_only=True)
class TrainingStep:
    """What is computed in one step.

    `micro_batches` go through the model one after the other; they are on the CPU, and only their shapes
    matter, and how many terms their `loss` is the mean of: `n_terms` counts them, all alike if it is None.
    The loss is computed under autocast to bfloat16 if `autocast`. `foreach` says how AdamW goes over the
    parameters: all at once, which takes one more copy of the second moments, or one by one.
    """

    micro_batches: Sequence[Batch]
    loss: Callable[[nn.Module, Batch], torch.Tensor]
    n_terms: Callable[[Batch], int] | None = None
    autocast: bool = False
    checkpointing: bool = False
    foreach: bool = False


@dataclass(frozen=True, kw_only=True)
class StepMemory:
    """The bytes of a training step, from the second on, when AdamW has its moments.

    `weights_bytes` is what stays frozen, `trained_bytes` adapters and head, with a gradient of
    `gradient_bytes` and moments of `optimizer_bytes`. `forward_bytes` are alive at the end of the largest
    forward pass beside these. `peak_bytes` is the most that is alive at once, with everything.
    """

    weights_bytes: int
    trained_bytes: int
    gradient_bytes: int
    optimizer_bytes: int
    forward_bytes: int
    peak_bytes: int


def without_weights(
    base: BaseModel, configs: Sequence[PeftConfig], *, task_type: str | None, dtype: torch.dtype
) -> PeftModel:
    """A skeleton in a number format with adapters in float32 on it, as the trainer attaches them.

    Args:
        base: A skeleton; changed in place.
        configs: In the order in which they are attached; empty for the head alone.
        task_type: `peft`'s word for the task; None where it has none.
        dtype: Of the frozen weights but for the task head. Buffers keep theirs.

    Raises:
        SpecError: `peft` reads values of weights to attach a config.
    """
    for parameter in base.module.parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(dtype)
    base.widen_head()
    try:
        with torch.device("meta"), StandInValues():
            return attach(base.module, configs, task_type=task_type, head_names=base.head_names)
    except _LACKS_VALUES as error:
        raise _unpredictable(error) from error


def replay(model: nn.Module, step: TrainingStep) -> StepMemory:
    """The memory of a training step of a model without weights, which is changed in place.

    The model is replayed as on a CPU. A GPU's attention has the same tensors where the CPU's is fused; where
    attention has dropout, the CPU's is not, and its weights (B, heads, T, T) are counted too.

    Args:
        model: On the meta device, with what requires a gradient marked.
        step: What is computed.

    Raises:
        SpecError: A forward or backward pass reads values of tensors.
    """
    fake_mode = FakeTensorMode(allow_non_fake_inputs=True)
    make_fake(model, fake_mode)
    n_terms = iter([step.n_terms(batch) if step.n_terms else None for batch in step.micro_batches])

    def loss(model: nn.Module, batch: Batch) -> torch.Tensor:
        stand_ins.n_true = next(n_terms)
        return step.loss(model, batch)

    try:
        with fake_mode, StandInValues() as stand_ins:
            return measure(model, replace(step, loss=loss))
    except _LACKS_VALUES as error:
        raise _unpredictable(error) from error


def measure(model: nn.Module, step: TrainingStep) -> StepMemory:
    """The memory of a training step of a model, which is run on its device; its weights change."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    frozen = [tensor for tensor in (*model.parameters(), *model.buffers()) if not tensor.requires_grad]
    with LivingBytes() as living:
        weights_bytes, trained_bytes = living.watch(frozen), living.watch(trained)
        optimizer = AdamW(trained, foreach=step.foreach)
        for parameter in trained:
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()  # makes the moments
        optimizer.zero_grad()
        optimizer_bytes = living.now - weights_bytes - trained_bytes
        model.train()
        living.forget_peak()
        with checkpointed(model) if step.checkpointing else contextlib.nullcontext():
            forward_bytes = _train(model, optimizer, step, living)
        return StepMemory(
            weights_bytes=weights_bytes,
            trained_bytes=trained_bytes,
            gradient_bytes=sum(parameter.numel() * parameter.element_size() for parameter in trained),
            optimizer_bytes=optimizer_bytes,
            forward_bytes=forward_bytes,
            peak_bytes=living.peak,
        )


def _train(model: nn.Module, optimizer: Optimizer, step: TrainingStep, living: LivingBytes) -> int:
    """One optimizer step; returns the most bytes that a forward pass left alive."""
    largest, device = 0, next(model.parameters()).device
    counts = [step.n_terms(batch) if step.n_terms else 1 for batch in step.micro_batches]
    for batch, n_terms in zip(step.micro_batches, counts, strict=True):
        before = living.now
        features = {name: tensor.to(device, copy=True) for name, tensor in batch.items()}
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=step.autocast):
            loss = step.loss(model, features)
        largest = max(largest, living.now - before)
        (loss * (n_terms / sum(counts))).backward()  # type: ignore[no-untyped-call]
        del loss, features
    nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], 1.0)
    optimizer.step()
    optimizer.zero_grad()
    return largest


def _unpredictable(error: Exception) -> SpecError:
    return SpecError(
        f"The memory of this plan cannot be told without weights: {first_line_of(error).rstrip('.')}; "
        "peft reads values of tensors there. Train a few steps to see it, or choose another method."
    )

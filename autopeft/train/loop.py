"""The training loop: batches, steps of AdamW, and a pause at the end of a rung."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.optim import AdamW, Optimizer

from autopeft.extension import Batch
from autopeft.model import SavedBytes
from autopeft.train.pausing import Position, State, pause, resume
from autopeft.train.rate_schedule import RateSchedule

_CLIP_NORM = 1.0  # of the gradients of all parameters together; usual for transformers


class DivergedError(FloatingPointError):
    """The loss became infinite or NaN during training."""


@dataclass(frozen=True, kw_only=True)
class TrainingRun:
    """The inputs of one training run.

    `rows` has the row indices of each step, `widths` the tokens of its longest row. `batch` makes a batch of
    row indices. `start` is the state from which the run resumes, if there is one. `keep` takes the state at
    its end; None keeps none.
    """

    rows: Sequence[Sequence[int]]
    widths: Sequence[int]
    batch: Callable[[Sequence[int]], Batch]
    loss: Callable[[nn.Module, Batch], torch.Tensor]
    schedule: RateSchedule
    seed: int
    start: State | None = None
    keep: Callable[[State], None] | None = None


@dataclass(frozen=True, kw_only=True)
class TrainingCost:
    """Seconds and steps of a run in this process, and its peak in bytes, counted at the widest step."""

    seconds: float = 0.0
    n_steps: int = 0
    peak_bytes: int = 0


def train(
    model: nn.Module, groups: list[dict[str, Any]], run: TrainingRun, *, device: torch.device
) -> TrainingCost:
    """Train parameter groups, whose `lr` is their peak, from the start or from where the run was paused.

    Raises DivergedError for a loss that is not finite.
    """
    started = time.perf_counter()
    peak_rates = [float(group["lr"]) for group in groups]
    optimizer = AdamW(groups, weight_decay=0.0)
    model.train()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(run.seed)  # dropout
        position = resume(run.start, model, optimizer, schedule=run.schedule, device=device)
        first_step = position.step
        for step in range(first_step, run.schedule.n_steps):
            for group, peak_rate in zip(optimizer.param_groups, peak_rates, strict=True):
                group["lr"] = peak_rate * run.schedule.multiplier(step)
            position = _step(model, optimizer, run, position)
        if run.keep is not None:
            position = replace(position, ends=run.schedule.ends)
            run.keep(pause(position, model, optimizer, device=device))
    trained_bytes = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    return TrainingCost(
        seconds=time.perf_counter() - started,
        n_steps=run.schedule.n_steps - first_step,
        peak_bytes=position.saved_bytes + 3 * trained_bytes,  # gradients, and AdamW's two moments
    )


def _step(model: nn.Module, optimizer: Optimizer, run: TrainingRun, position: Position) -> Position:
    """The position after one more optimizer step; bytes are counted if its rows are the widest so far."""
    step, width = position.step, run.widths[position.step]
    batch = run.batch(run.rows[step])
    counter = SavedBytes() if width > position.widest_tokens else None
    with counter.counting() if counter else torch.enable_grad():
        loss = run.loss(model, batch)
    saved_bytes = counter.total if counter else position.saved_bytes
    if not math.isfinite(float(loss.detach())):
        raise DivergedError(f"diverged at step {step + 1} of {run.schedule.n_steps}: the loss is not finite")
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], _CLIP_NORM)
    optimizer.step()
    optimizer.zero_grad()
    return Position(step=step + 1, widest_tokens=max(width, position.widest_tokens), saved_bytes=saved_bytes)

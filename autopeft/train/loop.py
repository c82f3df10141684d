"""The training loop: batches, steps of AdamW, and a pause at the end of a rung."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from torch.optim import AdamW, Optimizer

from autopeft.extension import Batch
from autopeft.model import SavedBytes
from autopeft.train.pausing import Position, pause, resume
from autopeft.train.rate_schedule import RateSchedule

_CLIP_NORM = 1.0  # of the gradients of all parameters together; usual for transformers

log = logging.getLogger(__name__)


class DivergedError(FloatingPointError):
    """The loss became infinite or NaN during training."""


@dataclass(frozen=True, kw_only=True)
class TrainingRun:
    """The inputs of one training run.

    `rows` has the row indices of each step, `widths` the tokens of its longest row. `batch` makes a batch of
    row indices. `paused` is the folder that keeps the state between rungs; None keeps none.
    """

    rows: Sequence[Sequence[int]]
    widths: Sequence[int]
    batch: Callable[[Sequence[int]], Batch]
    loss: Callable[[nn.Module, Batch], torch.Tensor]
    schedule: RateSchedule
    seed: int
    paused: Path | None = None


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

    Raises DivergedError for a loss that is not finite. If the disk does not keep the state of a paused run,
    its next rung starts anew, with the same numbers.
    """
    started = time.perf_counter()
    peak_rates = [float(group["lr"]) for group in groups]
    optimizer = AdamW(groups, weight_decay=0.0)
    model.train()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(run.seed)  # dropout
        position = Position()
        if run.paused is not None:
            position = resume(run.paused, model, optimizer, schedule=run.schedule, device=device)
        first_step = position.step
        for step in range(first_step, run.schedule.n_steps):
            for group, peak_rate in zip(optimizer.param_groups, peak_rates, strict=True):
                group["lr"] = peak_rate * run.schedule.multiplier(step)
            position = _step(model, optimizer, run, position)
        if run.paused is not None:
            try:
                position = replace(position, ends=run.schedule.ends)
                pause(run.paused, position, model, optimizer, device=device)
            except (OSError, SafetensorError) as error:
                log.warning("The state of a paused run was not kept, its next rung starts anew: %s", error)
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

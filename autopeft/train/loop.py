"""The loop itself: batches in, steps of AdamW, a pause where a rung ends."""

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

from autopeft.extension import Batch
from autopeft.model import SavedBytes
from autopeft.train.course import Course
from autopeft.train.pausing import Position, pause, take_up

_CLIP_NORM = 1.0

log = logging.getLogger(__name__)


class DivergedError(FloatingPointError):
    """The loss became infinite or NaN during training."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """What one run needs: the row indices of each step with their tokens, batches, the loss, the course.

    `widths` holds the tokens of the longest row of each step. `paused` is the folder where a rung's state
    is kept between rungs; None keeps none.
    """

    rows: Sequence[Sequence[int]]
    widths: Sequence[int]
    batch: Callable[[Sequence[int]], Batch]
    loss: Callable[[nn.Module, Batch], torch.Tensor]
    course: Course
    seed: int
    paused: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What a run took: seconds and steps of this process, and bytes counted on the step with most tokens."""

    seconds: float
    n_steps: int
    peak_bytes: int


def train(model: nn.Module, groups: list[dict[str, Any]], run: Run, *, device: torch.device) -> Trained:
    """Train what requires a gradient in a model, from the start or from where it was paused.

    Args:
        model: With adapters and head attached; trained in place.
        groups: Parameter groups with the peak learning rate of each.
        run: What to train on, and how.
        device: Where the model lies.

    Raises:
        DivergedError: The loss was not finite.
    """
    started = time.perf_counter()
    peaks = [float(group["lr"]) for group in groups]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.0)
    model.train()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(run.seed)  # dropout
        position = Position()
        if run.paused is not None:
            position = take_up(run.paused, model, optimizer, course=run.course, device=device)
        first = position.step
        for step in range(first, run.course.n_steps):
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * run.course.multiplier(step)
            position = _step(model, optimizer, run, position)
        if run.paused is not None:
            _pause(run.paused, replace(position, ends=run.course.ends), model, optimizer, device)
    trained_bytes = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    return Trained(
        seconds=time.perf_counter() - started,
        n_steps=run.course.n_steps - first,
        peak_bytes=position.saved_bytes + 3 * trained_bytes,  # gradients once, AdamW's two moments
    )


def _pause(
    folder: Path, position: Position, model: nn.Module, optimizer: torch.optim.Optimizer, device: torch.device
) -> None:
    """Keep the state if the disk lets it: without it the next rung begins anew and comes to the same."""
    try:
        pause(folder, position, model, optimizer, device=device)
    except (OSError, SafetensorError) as error:
        log.warning("The state of a paused run was not kept, its next rung starts anew: %s", error)


def _step(model: nn.Module, optimizer: torch.optim.Optimizer, run: Run, position: Position) -> Position:
    step, width = position.step, run.widths[position.step]
    batch = run.batch(run.rows[step])
    counter = SavedBytes() if width > position.widest_tokens else None
    with counter.counting() if counter else torch.enable_grad():
        loss = run.loss(model, batch)
    saved_bytes = counter.total if counter else position.saved_bytes
    if not math.isfinite(float(loss.detach())):
        raise DivergedError(f"diverged at step {step + 1} of {run.course.n_steps}: the loss is not finite")
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], _CLIP_NORM)
    optimizer.step()
    optimizer.zero_grad()
    return Position(step=step + 1, widest_tokens=max(width, position.widest_tokens), saved_bytes=saved_bytes)

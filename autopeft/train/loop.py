"""The training loop: steps of AdamW over micro-batches."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.amp import GradScaler
from torch.optim import AdamW, Optimizer

from autopeft.model.devices import SavedBytes, devices_of, forked_rng
from autopeft.plugins import Batch
from autopeft.train.compute import padded_tokens
from autopeft.train.curve import CURVE_STEPS, Curve, DivergedError
from autopeft.train.pausing import Position, UnderWay
from autopeft.train.rates import RateSchedule

_CLIP_NORM = 1.0  # of the gradients of all parameters together; the usual value for transformers
_FUSED_ON = ("cpu", "cuda")  # devices with one kernel of AdamW, and one of the norm, for all parameters

# Called after each step with its number, the number of steps, and a function that returns the mean loss.
Watcher = Callable[[int, int, Callable[[], float]], None]

_watcher: ContextVar[Watcher | None] = ContextVar("watcher", default=None)


@contextlib.contextmanager
def watched(watcher: Watcher) -> Iterator[None]:
    """Call `watcher` after each training step within a context."""
    token = _watcher.set(watcher)
    try:
        yield
    finally:
        _watcher.reset(token)


@dataclass(frozen=True, kw_only=True)
class TrainingRun:
    """The inputs of one training run."""

    steps: Sequence[Sequence[Sequence[int]]]  # micro-batches of each step, as row indices
    sizes: NDArray[np.int64]  # tokens of every row
    batch: Callable[[Sequence[int]], tuple[Batch, int]]  # and how many terms its loss averages
    loss: Callable[[nn.Module, Batch], torch.Tensor]
    schedule: RateSchedule
    seed: int
    scales_gradients: bool = False  # for float16: a step whose gradients leave its range is skipped
    curve: Path | None = None  # the file of its points
    under_way: Path | None = None  # the folder of states, kept now and then and at the branch of a short run


@dataclass(frozen=True, kw_only=True)
class TrainingCost:
    """Seconds and steps that a run trained, including those before it was resumed.

    A full run that continues a short one counts from there. `peak_bytes` is the most memory on top of the
    weights: by a GPU's allocator, else what the widest micro-batch saves, gradients and AdamW's moments.
    """

    seconds: float = 0.0
    n_steps: int = 0
    peak_bytes: int = 0


def train(
    model: nn.Module, groups: list[dict[str, Any]], run: TrainingRun, *, device: torch.device
) -> TrainingCost:
    """Train parameter groups, whose `lr` is the peak, in place; DivergedError if the loss explodes."""
    started, schedule, under_way = time.perf_counter(), run.schedule, UnderWay(run.under_way)
    n_steps, branch = schedule.n_steps, schedule.branch
    peak_rates = [float(group["lr"]) for group in groups]
    optimizer = AdamW(groups, weight_decay=0.0, fused=device.type in _FUSED_ON)
    scaler = GradScaler(device.type, enabled=run.scales_gradients)
    with forked_rng():
        torch.manual_seed(run.seed)  # dropout
        start = under_way.resume(model, optimizer, scaler, last_step=n_steps if branch is None else branch)
        peak = _PeakBytes(run, start, model)
        curve = Curve(run.curve, start=start, n_steps=n_steps)

        def position_after(n_done: int) -> Position:
            return replace(
                start,
                step=n_done,
                seconds=start.seconds + time.perf_counter() - started,
                saved_bytes=peak.saved_bytes,
                first_loss=curve.first_loss,
                n_high=curve.n_high,
            )

        for step in range(start.step, n_steps):
            for group, peak_rate in zip(optimizer.param_groups, peak_rates, strict=True):
                group["lr"] = peak_rate * schedule.share(step)
            losses, norm = _optimizer_step(model, optimizer, scaler, run=run, step=step, peak=peak)
            n_tokens = sum(padded_tokens(rows, run.sizes) for rows in run.steps[step])
            curve.add(step, losses, gradient_norm=norm, n_tokens=n_tokens)
            n_done = step + 1
            if (watcher := _watcher.get()) is not None:
                watcher(n_done, n_steps, partial(_mean, losses))
            is_in_full_run = branch is None or n_done < branch  # not in a decay
            is_kept = n_done == branch or (is_in_full_run and under_way.is_due())
            if n_done % CURVE_STEPS == 0 or n_done == n_steps or is_kept:
                curve.look(learning_rate=optimizer.param_groups[0]["lr"])
            if is_kept:
                position = position_after(n_done)
                if n_done == branch:
                    position = replace(position, began=branch, began_seconds=position.seconds)
                under_way.keep(position, model, optimizer, scaler)
        seconds = position_after(n_steps).seconds
        if scaler.is_enabled() and scaler.get_scale() < 1:
            raise DivergedError("diverged: the gradients are not finite in float16; try --dtype float32")
    if branch is None:
        seconds, n_steps = seconds - start.began_seconds, n_steps - start.began
    return TrainingCost(seconds=seconds, n_steps=n_steps, peak_bytes=peak.n_bytes)


def _optimizer_step(
    model: nn.Module,
    optimizer: Optimizer,
    scaler: GradScaler,
    *,
    run: TrainingRun,
    step: int,
    peak: _PeakBytes,
) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Take one optimizer step; return the losses of its micro-batches and the norm, on the device.

    The gradient is the sum over the terms of all micro-batches, divided once by their number. So it does not
    depend on how a step is cut. Micro-batches without a term are skipped if others have some.
    """
    batches = [run.batch(rows) for rows in run.steps[step]]
    n_terms = sum(n for _, n in batches)
    losses = []
    for rows, (batch, n) in zip(run.steps[step], batches, strict=True):
        if n == 0 != n_terms:
            continue  # no label in any of its rows
        with peak.counting(rows):
            loss = run.loss(model, batch)
        share = loss if n == n_terms else loss * (n / n_terms)
        scaler.scale(share).backward()  # type: ignore[no-untyped-call]
        losses.append(loss.detach())
        del loss, share
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    scaler.unscale_(optimizer)
    norm = nn.utils.clip_grad_norm_(parameters, _CLIP_NORM, foreach=optimizer.defaults["fused"] or None)
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad()
    return losses, norm


def _mean(losses: Sequence[torch.Tensor]) -> float:
    return float(torch.stack(list(losses)).mean())


class _PeakBytes:
    """Measures the memory of a run as `TrainingCost` describes it."""

    def __init__(self, run: TrainingRun, start: Position, model: nn.Module) -> None:
        self._counted_bytes = start.saved_bytes
        trained_bytes = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
        self._state_bytes = 3 * trained_bytes  # gradients, and AdamW's two moments
        self._gpus = [device for device in devices_of(model) if device.type == "cuda"]
        self._bytes_before = sum(map(torch.cuda.memory_allocated, self._gpus))
        for gpu in self._gpus:
            torch.cuda.reset_peak_memory_stats(gpu)
        # Of equally wide micro-batches the first; a resumed run that is beyond it has its bytes.
        self._widest = max(
            chain.from_iterable(run.steps), key=partial(padded_tokens, sizes=run.sizes), default=()
        )

    @property
    def n_bytes(self) -> int:
        """The most bytes so far."""
        return self.saved_bytes + self._state_bytes

    @property
    def saved_bytes(self) -> int:
        """The same without gradients and moments."""
        if not self._gpus:
            return self._counted_bytes
        peak = sum(map(torch.cuda.max_memory_allocated, self._gpus)) - self._bytes_before
        return max(self._counted_bytes, peak - self._state_bytes)

    @contextlib.contextmanager
    def counting(self, rows: Sequence[int]) -> Iterator[None]:
        """Count what a forward pass saves, if `rows` are the widest micro-batch."""
        if self._gpus or rows is not self._widest:
            yield
            return
        counter = SavedBytes()
        with counter.counting():
            yield
        self._counted_bytes = counter.total

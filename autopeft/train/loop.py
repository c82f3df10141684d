"""The training loop: steps of AdamW over micro-batches, and quick dropout on a CPU."""

from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.library import Library
from torch.optim import AdamW, Optimizer

from autopeft.extension import Batch
from autopeft.model.devices import FreedMemory, SavedBytes, forked_rng
from autopeft.train.compute import padded_tokens
from autopeft.train.pausing import Position, UnderWay, pause, resume
from autopeft.train.rates import RateSchedule
from autopeft.train.rows import Counts

_CLIP_NORM = 1.0  # of the gradients of all parameters together; usual for transformers
_FUSED_ON = ("cpu", "cuda")  # devices with one kernel of AdamW, and one of the norm, for all parameters
_CHECKED_STEPS = 8  # steps between two looks at the losses, since a look waits for the device; by hand
_MASK_STEPS = 2**16  # values of the 16 bits of a dropout mask; a probability is rounded to the nearest
_PER_WORD = 4  # masks from one 64-bit word of the generator


# Called after each step with its number, the number of steps, and a function that gives the step's mean loss.
Watcher = Callable[[int, int, Callable[[], float]], None]

_watcher: ContextVar[Watcher | None] = ContextVar("watcher", default=None)


@contextlib.contextmanager
def watched(watcher: Watcher) -> Iterator[None]:
    """A context in which a function hears of each training step; to ask for the loss waits for the device."""
    token = _watcher.set(watcher)
    try:
        yield
    finally:
        _watcher.reset(token)


class DivergedError(FloatingPointError):
    """The loss became infinite or NaN during training."""


@dataclass(frozen=True, kw_only=True)
class TrainingRun:
    """The inputs of one training run.

    `steps` has the micro-batches of each step as row indices, `sizes` the tokens of every row. `batch`
    makes a batch of row indices, and counts the terms that its `loss` is the mean of. `under_way` takes
    states of the full run now and then, and at the branch of a short run, from which the full run goes on.
    `interrupt` is called before each step; what it raises stops the run. Where it `scales_gradients` up, for
    float16, a step whose gradients leave its range is skipped.
    """

    steps: Sequence[Sequence[Sequence[int]]]
    sizes: Counts
    batch: Callable[[Sequence[int]], tuple[Batch, int]]
    loss: Callable[[nn.Module, Batch], torch.Tensor]
    schedule: RateSchedule
    seed: int
    scales_gradients: bool = False
    under_way: UnderWay | None = None
    interrupt: Callable[[], None] = lambda: None


@dataclass(frozen=True, kw_only=True)
class TrainingCost:
    """Seconds and steps of a run since its start or a branch, also those of an earlier process.

    `peak_bytes` is the peak of its widest micro-batch.
    """

    seconds: float = 0.0
    n_steps: int = 0
    peak_bytes: int = 0


def train(
    model: nn.Module, groups: list[dict[str, Any]], run: TrainingRun, *, device: torch.device
) -> TrainingCost:
    """Train the parameter groups of a model, from the start or from where the run was stopped.

    The `lr` of a group is its peak. The model is in train mode already. Raises DivergedError for a loss that
    is not finite.
    """
    started, schedule = time.perf_counter(), run.schedule
    n_steps = schedule.n_steps
    peak_rates = [float(group["lr"]) for group in groups]
    optimizer = AdamW(groups, weight_decay=0.0, fused=device.type in _FUSED_ON)
    scaler = GradScaler(device.type, enabled=run.scales_gradients)
    with forked_rng(device):
        torch.manual_seed(run.seed)  # dropout
        kept = None if run.under_way is None else run.under_way.load()
        if kept is not None and kept.position.step > (schedule.branch or n_steps):
            kept = None  # the full run has gone on beyond the branch of this one
        start = resume(kept, model, optimizer, scaler, n_full=schedule.n_full, device=device)
        counted = _CountedLoss(run, start)

        def reached(n_done: int) -> Position:
            seconds = start.seconds + time.perf_counter() - started
            return replace(counted.position, step=n_done, seconds=seconds)

        freed = FreedMemory(device)
        losses: list[tuple[int, torch.Tensor]] = []  # with their steps, since the last look at them
        for step in range(start.step, n_steps):
            run.interrupt()
            if step == schedule.branch and run.under_way is not None:
                _require_finite(losses, n_steps=n_steps)
                branch = replace(counted.position, step=step, began=step, seconds=0.0)
                run.under_way.keep(pause(branch, model, optimizer, scaler, device=device))
            for group, peak_rate in zip(optimizer.param_groups, peak_rates, strict=True):
                group["lr"] = peak_rate * schedule.share(step)
            of_step = optimizer_step(model, optimizer, scaler, run.steps[step], counted, freed)
            losses += [(step, loss) for loss in of_step]
            if (watcher := _watcher.get()) is not None:
                watcher(step + 1, n_steps, partial(_mean, of_step))
            is_last = step + 1 == n_steps
            is_before = schedule.branch is None or step + 1 < schedule.branch  # in the steps of a full run
            is_kept = run.under_way is not None and is_before and run.under_way.is_due(is_last=is_last)
            if (step + 1) % _CHECKED_STEPS == 0 or is_last or is_kept:
                _require_finite(losses, n_steps=n_steps)
                losses.clear()
            if is_kept and run.under_way is not None:
                run.under_way.keep(pause(reached(step + 1), model, optimizer, scaler, device=device))
        position = reached(n_steps)
        if scaler.is_enabled() and scaler.get_scale() < 1:
            raise DivergedError("diverged: the gradients are not finite in float16; try --dtype float32")
    trained_bytes = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    return TrainingCost(
        seconds=position.seconds,
        n_steps=n_steps - start.began,
        peak_bytes=position.saved_bytes + 3 * trained_bytes,  # gradients, and AdamW's two moments
    )


def optimizer_step(
    model: nn.Module,
    optimizer: Optimizer,
    scaler: GradScaler,
    parts: Sequence[Sequence[int]],
    counted: _CountedLoss,
    freed: FreedMemory,
) -> list[torch.Tensor]:
    """Take one optimizer step; returns the losses of its micro-batches, on the device.

    The gradient is the sum over the terms of all micro-batches, divided once by their number. So it is the
    same however a step is cut.
    """
    batches = [counted.run.batch(rows) for rows in parts]
    n_terms = sum(n for _, n in batches)
    losses = []
    for rows, (batch, n) in zip(parts, batches, strict=True):
        if n == 0 != n_terms:
            continue  # no label in any of its rows
        loss = counted.loss(model, rows, batch)
        share = loss if n == n_terms else loss * (n / n_terms)
        scaler.scale(share).backward()  # type: ignore[no-untyped-call]
        losses.append(loss.detach())
        del loss, share
        freed.give_back()
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    scaler.unscale_(optimizer)
    nn.utils.clip_grad_norm_(parameters, _CLIP_NORM, foreach=optimizer.defaults["fused"] or None)
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad()
    return losses


def _mean(losses: Sequence[torch.Tensor]) -> float:
    return float(torch.stack(list(losses)).mean())


def _require_finite(losses: Sequence[tuple[int, torch.Tensor]], *, n_steps: int) -> None:
    """Raise DivergedError for the first step whose loss is infinite or NaN."""
    if not losses:
        return
    are_finite = torch.stack([loss for _, loss in losses]).isfinite().tolist()
    for (step, _), is_finite in zip(losses, are_finite, strict=True):
        if not is_finite:
            raise DivergedError(f"diverged at step {step + 1} of {n_steps}: the loss is not finite")


class _CountedLoss:
    """Computes the loss of a run, and counts once the bytes that its widest micro-batch saves for backward.

    A resumed run keeps the count in its `position` unless a wider micro-batch follows.
    """

    def __init__(self, run: TrainingRun, position: Position) -> None:
        self.run, self.position = run, position
        parts = [rows for step in run.steps[position.step :] for rows in step]
        # The first of equally wide ones, as in a run that was not stopped.
        widest = max(parts, key=self._n_tokens, default=())
        self._widest = widest if self._n_tokens(widest) > position.widest_tokens else ()

    def loss(self, model: nn.Module, rows: Sequence[int], batch: Batch) -> torch.Tensor:
        """The mean loss of a micro-batch of rows."""
        if rows is not self._widest:
            return self.run.loss(model, batch)
        counter = SavedBytes()
        with counter.counting():
            loss = self.run.loss(model, batch)
        n_tokens = self._n_tokens(rows)
        self.position = replace(self.position, widest_tokens=n_tokens, saved_bytes=counter.total)
        return loss

    def _n_tokens(self, rows: Sequence[int]) -> int:
        return padded_tokens(rows, self.run.sizes)


@contextlib.contextmanager
def quick_masks(device: torch.device) -> Iterator[None]:
    """A context in which `bernoulli_` fills CPU tensors faster, and with it every dropout of a model.

    torch draws each element of a mask by itself and on one thread, except on processors of one vendor: on
    two cores of another that was a sixth of a step of MiniLM-L6. The masks come from torch's generator, so
    that `torch.manual_seed` decides them as before; they are other masks than outside of the context.
    """
    if device.type != "cpu":
        yield
        return
    library = Library("aten", "IMPL")  # type: ignore[no-untyped-call]
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=r"(?s).*[Oo]verrid")  # which is what is wanted
            library.impl("bernoulli_.float", _fill, "CPU")  # type: ignore[no-untyped-call]
        yield
    finally:
        # Gives torch's own kernel back; there is no public way.
        library._destroy()  # type: ignore[no-untyped-call]


def _fill(mask: Tensor, p: float = 0.5, generator: torch.Generator | None = None) -> Tensor:
    """Ones with probability p, in steps of 2^-16, else zeros."""
    if not 0 <= p <= 1:
        raise RuntimeError(f"bernoulli_ expects p to be in [0, 1], but got p={p}")
    n_ones = round(p * _MASK_STEPS)
    if n_ones in (0, _MASK_STEPS):
        return mask.fill_(n_ones // _MASK_STEPS)
    words = torch.empty(-(-mask.numel() // _PER_WORD), dtype=torch.int64)
    bits = words.random_(-(2**63), None, generator=generator).view(torch.int16)[: mask.numel()]
    return mask.copy_((bits < n_ones - _MASK_STEPS // 2).view(mask.shape))

"""Learning rates by step and parameter: the plan's for adapters, derived for the head."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from autopeft.adapters import compile_plan
from autopeft.model import BaseModel
from autopeft.plugins import Batch, Method
from autopeft.types import Plan

# Losses after 30 steps rank good plans at Spearman 0.12, after 75 at 0.36; on published curves of 5,000 steps
# two of four plans at 5 % lose 0.3 points (research/2026-11-29-listed-plans.md). The largest share is a
# heuristic.
_SHORT_STEPS, _SHORT_SHARE, _LONGEST_SHARE = 75, 0.05, 0.4
_BEFORE_DECAY = 0.8  # share of a short run before its decay, which a full run need not repeat; heuristic
_MOST_WARMUP = 50  # steps, so that short runs of long ones train at the peak rate; heuristic
WARMUP_SHARE = 0.06  # as in RoBERTa, Liu et al. 2019, arXiv:1907.11692

# One rate for adapters and head confounds methods with rates (research/2026-11-25-head-and-adapters.md).
# AdamW moves an output by about rate × inputs × their root mean square, which is 0.06 before MiniLM's
# classifier and 1.9 before SmolLM2's. The numbers here are such moves: of the outputs of the last layer (LoRA
# has 0 to 4 points more at 2 than at 0.66, and no more at 4: research/2026-11-29-head-move.md), and of layers
# below it, which learn worse at larger ones (MiniLM with a new pooler: 0.885 at 3.6, 0.904 and more at 0.37).
MOVE = 2.0
# The move times the epochs is at most this: where rows repeat, a fast head memorizes them. At 16 epochs of
# 400 rows 0.5 is 0 to 4.5 points better than 2 on eight sets of nine (research/2026-12-01-head-rate.md).
MOST_MOVE_EPOCHS = 8.0
# Numbers are learned in units of their spread: outputs need not move as far (lower losses on stsb and a toy).
MOVE_OF_NUMBERS = 0.66
MOVE_BELOW = 0.4
# The range of moves to try where the head alone is trained: on five datasets 3.4 was best of 0.17 to 16.
_MOVES_ALONE = (0.9, 14.0)
_LEAST_RMS = 0.01  # a head behind a batch norm has far smaller inputs in evaluation than in training


SCHEDULE = (
    "linear decay to 0 after a warm-up of 6 %, at most 50 steps; AdamW, no weight decay, gradient norm "
    "clipped at 1; the last layer of the task head at head_learning_rate, linear layers below it at "
    f"{MOVE_BELOW} / (inputs × their root mean square)"
)


def warmup_steps(n_steps: int) -> int:
    """Return the steps of the warm-up of a run of `n_steps`."""
    return min(_MOST_WARMUP, round(WARMUP_SHARE * n_steps))


def rate_share(step: int, n_steps: int) -> float:
    """Return the share of the peak rate at a step, in (0, 1]: linear warm-up and decay."""
    warmup = max(1, warmup_steps(n_steps))
    return min((step + 1) / warmup, (n_steps - step) / max(1, n_steps - warmup + 1))


@dataclass(frozen=True, kw_only=True)
class RateSchedule:
    """Shares of the peak rate in a full run, or in a shorter one that branches off it.

    A short run has the steps of a full run up to its branch, from which a full run can continue to the same
    bits, and then decays to 0. Plans rank far better after a decay than at a constant rate or in the middle
    of a long decay (research/2026-11-25-short-run-decay.md).
    """

    n_steps: int
    n_full: int

    @property
    def branch(self) -> int | None:
        """The step at which a short run begins to decay; None in a full run."""
        return branch_step(self.n_steps) if self.n_steps < self.n_full else None

    def share(self, step: int) -> float:
        """Return the share of the peak learning rate at a step, in (0, 1]."""
        branch = self.branch
        if branch is None or step < branch:
            return rate_share(step, self.n_full)
        return rate_share(branch, self.n_full) * (self.n_steps - step) / (self.n_steps - branch)


def short_steps(n_full: int) -> int:
    """Return the steps of a short run: 75, or a twentieth of a long run, at most 40 %."""
    most = max(1, round(_LONGEST_SHARE * n_full))
    return min(max(_SHORT_STEPS, round(_SHORT_SHARE * n_full)), most)


def branch_step(n_steps: int) -> int:
    """Return the step at which a short run begins to decay and its full run continues."""
    return min(n_steps - 1, round(_BEFORE_DECAY * n_steps))


def full_run_steps(*, n_train: int, batch_size: int, epochs: float | None, max_steps: int | None) -> int:
    """Return the steps of a full run: `max_steps` if set, else those of the epochs, >= 1."""
    if max_steps is not None:
        return max_steps
    assert epochs is not None, "epochs are derived where neither is set"
    per_epoch = max(1, n_train // min(batch_size, n_train))
    return max(1, math.ceil(epochs * per_epoch))


@dataclass(frozen=True, kw_only=True)
class HeadRates:
    """Learning rates of the task head, by the names of its parameters in the base model."""

    by_name: Mapping[str, float]
    output: float = 1.0  # of the head's last layer; 1 without a head
    move: float = MOVE  # of an output by one step at that rate, about

    def at(self, output: float) -> HeadRates:
        """Scale all rates, so that the last layer has the rate `output`."""
        factor = output / self.output
        by_name = {name: rate * factor for name, rate in self.by_name.items()}
        return HeadRates(by_name=by_name, output=output, move=self.move * factor)

    def alone(self) -> tuple[float, float]:
        """Return the range of rates to try for the head alone; (1, 1) without a head."""
        if not self.by_name:
            return 1.0, 1.0
        low, high = (self.output * move / self.move for move in _MOVES_ALONE)
        return low, high


def head_layers(base: BaseModel) -> list[str]:
    """Return the names of the linear layers that are trained as the task head."""
    return [name for name, module in _head_modules(base) if isinstance(module, nn.Linear)]


def input_rms(
    module: nn.Module,
    batches: Sequence[Batch],
    names: Iterable[str],
    *,
    call: Callable[[nn.Module, Batch], object],
) -> dict[str, float]:
    """Measure the root mean square of the inputs that batches give to layers, without padding."""
    sums: dict[str, tuple[float, int]] = {}
    mask: torch.Tensor | None = None

    def hook(name: str, _: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        rows = inputs[0]
        if mask is not None and rows.shape[:-1] == mask.shape:
            rows = rows[mask.bool()]
        total, count = sums.get(name, (0.0, 0))
        sums[name] = total + float(rows.float().square().sum()), count + rows.numel()

    handles = [module.get_submodule(name).register_forward_pre_hook(partial(hook, name)) for name in names]
    try:
        with torch.no_grad():
            for batch in batches:
                mask = batch.get("attention_mask")
                call(module, batch)
    finally:
        for handle in handles:
            handle.remove()
    return {name: math.sqrt(total / max(1, count)) for name, (total, count) in sums.items()}


def head_move(n_epochs: float | None) -> float:
    """Return how far a step of AdamW should move the outputs of a head of classes."""
    return MOVE if not n_epochs else min(MOVE, MOST_MOVE_EPOCHS / n_epochs)


def head_rates(base: BaseModel, rms: Mapping[str, float], *, n_epochs: float | None = None) -> HeadRates:
    """Choose the rates of the task head by the root mean square (RMS) of layers' inputs.

    1. A linear layer gets move / (inputs × RMS), its bias at most the move. A missing RMS counts as 1, and so
       does one that is not finite.
    2. An output layer that predicts numbers gets that times the spread of the numbers.
    3. Other parameters, such as those of norms, get 1 / their last dimension.

    `n_epochs` is the length of a full run, None if it is unknown.
    """
    rates = {}
    output_move = MOVE_OF_NUMBERS if base.predicts_numbers else head_move(n_epochs)
    for name, module in _head_modules(base):
        is_output = name == base.output_layer
        move, scale = (output_move, base.output_scale) if is_output else (MOVE_BELOW, 1.0)
        input_size = max(_LEAST_RMS, rms[name]) if math.isfinite(rms.get(name, math.nan)) else 1.0
        for parameter_name, parameter in module.named_parameters(recurse=False):
            if isinstance(module, nn.Linear):
                full_rate = move / (module.in_features * input_size)
                rate = scale * (min(full_rate, move) if parameter_name == "bias" else full_rate)
            else:
                rate = 1.0 / max(1, parameter.shape[-1] if parameter.ndim else 1)
            rates[f"{name}.{parameter_name}"] = rate
    output = rates.get(f"{base.output_layer}.weight", max(rates.values(), default=1.0))
    return HeadRates(by_name=rates, output=output, move=output_move)


def _head_modules(base: BaseModel) -> list[tuple[str, nn.Module]]:
    heads = [(name, base.module.get_submodule(name)) for name in base.head_names]
    return [entry for name, head in heads for entry in head.named_modules(prefix=name)]


def parameter_groups(
    model: nn.Module, plan: Plan, *, heads: HeadRates, methods: Mapping[str, Method]
) -> list[dict[str, Any]]:
    """Make AdamW's groups: adapters at the plan's learning rate, the head at its own rates.

    If the head alone is trained, the plan's learning rate is that of its last layer, and its other layers
    keep their proportion to it.
    """
    stack = compile_plan(plan, methods)
    factors = dict(zip(stack.names, stack.rate_factors, strict=False))  # the head alone has no factor
    scale = plan.head_factor if plan.adapters else plan.learning_rate / heads.output
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            head_name = _head_name(name, heads.by_name)
            factor = next((factors[each] for each in name.split(".") if each in factors), 1.0)
            rate = factor * plan.learning_rate if head_name is None else scale * heads.by_name[head_name]
            groups.setdefault(rate, []).append(parameter)
    return [{"params": parameters, "lr": rate} for rate, parameters in groups.items()]


def _head_name(name: str, head_parameters: Mapping[str, float]) -> str | None:
    """Return a head parameter's name in the base model; None for an adapter's."""
    head, is_copy, path_in_copy = name.partition(".modules_to_save.")
    if not is_copy:
        return None
    path = [*head.split("."), *path_in_copy.split(".")[1:]]  # without the name of the adapter
    ends = (".".join(path[i:]) for i in range(len(path)))
    return next((end for end in ends if end in head_parameters), None)

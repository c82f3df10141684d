"""The learning rates of a plan's parameters: adapters at the plan's own, the task head at fixed ones."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from autopeft.adapters import compile_plan
from autopeft.extension import Method
from autopeft.model import BaseModel
from autopeft.records import Plan

# One rate for adapters and head confounds methods with rates: on clinc_domain10, 53 steps, LoRA at
# 4e-3 gets 74 % with the head at its own rate and 85 % with the head at 3e-2, which is what IA3's
# rate gives the head anyway (reports/LOG.md, 2026-11-25). AdamW moves an output by about rate × inputs ×
# their root mean square, which is 0.06 before MiniLM's classifier, 0.4 before its tags, 1.9 before SmolLM2's
# classes: one rate for all is far too high for some. These are the moves of the last layer's outputs, and of
# those of layers below it, which learn worse at larger ones (two seeds, MiniLM with a new pooler: 0.885 at
# 2.6e-2, a move of 3.6, and 0.904 to 0.930 at 2.7e-3, a move of 0.37).
_MOVE = 0.66
_MOVE_BELOW = 0.4
# And where the head alone is trained, the moves to try: on five sets 3.4 was best of 0.17 to 16.
_MOVES_ALONE = (0.9, 14.0)
_LEAST_RMS = 0.01  # a head behind a batch norm is given far less in evaluation than in training
_KEPT = "modules_to_save"

SCHEDULE = (
    "linear decay to 0 after 6 % warm-up; AdamW, no weight decay, gradient norm clipped at 1; "
    f"output layer of the task head at {_MOVE} / (inputs × their root mean square), linear maps below it "
    f"at {_MOVE_BELOW}, or in proportion, the output layer at the plan's rate, where nothing else is trained"
)


@dataclass(frozen=True, kw_only=True)
class HeadRates:
    """Learning rates of the task head: by the names that its parameters have in the base model.

    `output` is that of its last layer, 1 where there is no head.
    """

    by_name: Mapping[str, float]
    output: float = 1.0

    def alone(self) -> tuple[float, float]:
        """The range of rates of the last layer to try where the head alone is trained.

        A model without a head, such as a language model, trains nothing then: one rate without a meaning.
        """
        if not self.by_name:
            return 1.0, 1.0
        low, high = (self.output * move / _MOVE for move in _MOVES_ALONE)
        return low, high


def head_maps(base: BaseModel) -> list[str]:
    """Names of the linear maps that are trained with the task head."""
    return [
        name
        for head in base.head_names
        for name, module in base.module.get_submodule(head).named_modules(prefix=head)
        if isinstance(module, nn.Linear)
    ]


def head_rates(base: BaseModel, rms: Mapping[str, float]) -> HeadRates:
    """The rates of the task head from the root mean squares of what its linear maps are given.

    0.66 / (inputs × RMS) for the output layer, 0.4 for linear maps below it; the RMS counts as 1 where it is
    missing or infinite, and as 0.01 at least. A bias gets at most 0.66 or 0.4, the output layer of numbers
    all in proportion to their spread; other parameters, such as those of norms, one over their last size.
    """
    rates = {}
    for head in base.head_names:
        for name, module in base.module.get_submodule(head).named_modules(prefix=head):
            is_output = name == base.output_layer
            move, scale = (_MOVE, base.output_scale) if is_output else (_MOVE_BELOW, 1.0)
            size = rms.get(name, 1.0)
            size = max(_LEAST_RMS, size) if math.isfinite(size) else 1.0
            for own, parameter in module.named_parameters(recurse=False):
                if isinstance(module, nn.Linear):
                    rate = move / (module.in_features * size)
                    rates[f"{name}.{own}"] = scale * (min(rate, move) if own == "bias" else rate)
                else:
                    rates[f"{name}.{own}"] = 1.0 / max(1, parameter.shape[-1] if parameter.ndim else 1)
    output = rates.get(f"{base.output_layer}.weight", max(rates.values(), default=1.0))
    return HeadRates(by_name=rates, output=output)


def parameter_groups(
    model: nn.Module, plan: Plan, *, heads: HeadRates, methods: Mapping[str, Method]
) -> list[dict[str, Any]]:
    """Adapters at the plan's learning rate, the task head at the same rates for every plan.

    Where the head alone is trained its last layer takes the plan's rate, which is searched.
    """
    stack = compile_plan(plan, methods)
    factors = dict(
        zip(stack.names, stack.rate_factors, strict=False)
    )  # the head alone has a name and no factor
    scale = 1.0 if plan.adapters else plan.learning_rate / heads.output
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            own = next((factors[part] for part in name.split(".") if part in factors), 1.0)
            head = _head_name(name, heads.by_name)
            rate = own * plan.learning_rate if head is None else scale * heads.by_name[head]
            groups.setdefault(rate, []).append(parameter)
    return [{"params": params, "lr": rate} for rate, params in groups.items()]


def _head_name(name: str, known: Mapping[str, float]) -> str | None:
    """What a parameter of the head that `peft` keeps a copy of is called in the base model."""
    before, found, after = name.partition(f".{_KEPT}.")
    if not found:
        return None
    path = [*before.split("."), *after.split(".")[1:]]  # without the name of the adapter
    return next((own for i in range(len(path)) if (own := ".".join(path[i:])) in known), None)

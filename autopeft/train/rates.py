"""The learning rates of a plan's parameters: adapters at the plan's own, the task head at fixed ones."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from torch import nn

from autopeft.extension import Method
from autopeft.model import BaseModel, adapter_names
from autopeft.records import Plan
from autopeft.train.compiling import compile_with_factors

# One rate for adapters and head confounds methods with rates: on clinc_domain10, 53 steps, LoRA at
# 4e-3 gets 74 % with the head at its own rate and 85 % with the head at 3e-2, which is what IA3's
# rate gives the head anyway (reports/LOG.md, 2026-11-25). AdamW moves an output by about rate × inputs ×
# their root mean square, which is 0.06 before MiniLM's classifier, 0.4 before its tags, 1.9 before SmolLM2's
# classes: the same rate for all is far too high for some. So far an output may move at a step.
_MOVE = 0.6
# And where the head alone is trained, the rates to try: on five sets 3.4 was best of 0.17 to 16.
_MOVES_ALONE = (0.9, 14.0)
_KEPT = "modules_to_save"


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
    """Names of the linear maps in the task head, the last layer last."""
    names = [
        ".".join(part for part in (head, name) if part)
        for head in base.head_names
        for name, module in base.module.get_submodule(head).named_modules()
        if isinstance(module, nn.Linear)
    ]
    n_labels = int(cast(Any, base.module.config).num_labels)
    return sorted(names, key=lambda name: base.module.get_submodule(name).out_features == n_labels)


def head_rates(base: BaseModel, rms: Mapping[str, float]) -> HeadRates:
    """The rates of the task head from the root mean squares of what its linear maps are given.

    0.6 / (inputs × RMS) for linear maps, whose RMS is taken as 1 where it is missing, infinite or 0; one over
    their last size for other parameters, such as those of norms.
    """
    rates = {}
    for head in base.head_names:
        for name, module in base.module.get_submodule(head).named_modules(prefix=head):
            scale = rms.get(name, 1.0)
            size = scale if math.isfinite(scale) and scale > 0 else 1.0
            for own, parameter in module.named_parameters(recurse=False):
                if isinstance(module, nn.Linear):
                    rates[f"{name}.{own}"] = _MOVE / (module.in_features * size)
                else:
                    rates[f"{name}.{own}"] = 1.0 / max(1, parameter.shape[-1] if parameter.ndim else 1)
    maps = head_maps(base)
    output = rates[f"{maps[-1]}.weight"] if maps else max(rates.values(), default=1.0)
    return HeadRates(by_name=rates, output=output)


def parameter_groups(
    model: nn.Module, plan: Plan, *, heads: HeadRates, methods: Mapping[str, Method]
) -> list[dict[str, Any]]:
    """Adapters at the plan's learning rate, the task head at the same rates for every plan.

    Where the head alone is trained its last layer takes the plan's rate, which is searched.
    """
    compiled = compile_with_factors(plan, methods)
    names = adapter_names([config for config, _ in compiled])
    factors = {name: factor for name, (_, factor) in zip(names, compiled, strict=False)}
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

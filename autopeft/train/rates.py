"""The learning rates of a plan's parameters: adapters at the plan's own, the task head at fixed ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from torch import nn

from autopeft.extension import Method
from autopeft.model import BaseModel, adapter_names
from autopeft.records import Plan
from autopeft.train.compiling import compile_with_factors

# One rate for adapters and head confounds methods with rates: on clinc_domain10, 53 steps, LoRA at
# 4e-3 gets 74 % with the head at its own rate and 85 % with the head at 3e-2, which is what IA3's
# rate gives the head anyway (reports/LOG.md, 2026-11-25). AdamW moves a logit by about rate × inputs.
# Layers of the head below it learn worse at that rate (two seeds, MiniLM with a new pooler: 0.885 at
# 2.6e-2, 0.904 to 0.930 at 2.7e-3), so they take a tenth.
_OUTPUT_RATE_TIMES_INPUTS = 10.0


def parameter_groups(
    model: nn.Module, plan: Plan, *, base: BaseModel, methods: Mapping[str, Method]
) -> list[dict[str, Any]]:
    """Adapters at the plan's learning rate, the task head at the same rates for every plan.

    Where the head alone is trained its output layer takes the plan's rate, which is searched.
    """
    compiled = compile_with_factors(plan, methods)
    names = adapter_names([config for config, _ in compiled])
    factors = {name: factor for name, (_, factor) in zip(names, compiled, strict=False)}
    heads = _head_rates(model, base)
    output_rate = max(heads.values(), default=1.0)
    scale = 1.0 if plan.adapters else plan.learning_rate / output_rate
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            own = next((factors[part] for part in name.split(".") if part in factors), 1.0)
            rate = scale * heads[name] if name in heads else own * plan.learning_rate
            groups.setdefault(rate, []).append(parameter)
    return [{"params": params, "lr": rate} for rate, params in groups.items()]


def _head_rates(model: nn.Module, base: BaseModel) -> dict[str, float]:
    """Learning rate by name for the head's parameters, from the inputs of each of its linear maps."""
    n_labels = int(cast(Any, base.module.config).num_labels)
    rates = {}
    for name, module in model.named_modules():
        if "modules_to_save" in name.split("."):
            weight = getattr(module, "weight", None)
            is_linear = isinstance(module, nn.Linear)
            times = _OUTPUT_RATE_TIMES_INPUTS if is_linear and module.out_features == n_labels else 1.0
            n_inputs = module.in_features if is_linear else getattr(weight, "shape", (1,))[-1]
            for own, parameter in module.named_parameters(recurse=False):
                if parameter.requires_grad:
                    rates[f"{name}.{own}"] = times / n_inputs
    return rates


def head_alone_rates(base: BaseModel) -> tuple[float, float]:
    """The range of learning rates to try where the head alone is trained, by its output layer's inputs.

    (1.2, 115) / inputs is 3e-3 to 3e-1 for MiniLM's 384, where 0.1 was best of three; chosen by hand. A model
    without a head, such as a language model, trains nothing then: the range is one rate without a meaning.
    """
    if not base.head_params:
        return 1.0, 1.0
    n_labels = int(cast(Any, base.module.config).num_labels)
    inputs = [
        layer.in_features
        for name in base.head_names
        for layer in base.module.get_submodule(name).modules()
        if isinstance(layer, nn.Linear) and layer.out_features == n_labels
    ]
    n_inputs = max(inputs, default=384)
    return 1.2 / n_inputs, 115 / n_inputs

"""A plan as a stack of `peft` configs: what a model takes, in the order in which it takes them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from peft import PeftConfig

from autopeft.extension import Method
from autopeft.model import adapter_names
from autopeft.records import Adapter, Plan


@dataclass(frozen=True, kw_only=True)
class Stack:
    """`peft` configs in the order in which they are attached; none for the task head alone.

    A method whose sites share a state comes first. The adapters of each config train at its entry in
    `rate_factors` times the plan's learning rate.
    """

    configs: tuple[PeftConfig, ...]
    rate_factors: tuple[float, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """What the configs are called inside a model; `default` also for the head alone."""
        return adapter_names(self.configs)


def compile_plan(plan: Plan, methods: Mapping[str, Method]) -> Stack:
    """The stack of `peft` configs that says the same as a plan.

    Each method, in the order of their names, writes the configs of its adapters of one rate factor.
    """
    groups: dict[tuple[str, float], list[Adapter]] = defaultdict(list)
    for adapter in plan.adapters:
        groups[adapter.method, adapter.rate_factor].append(adapter)
    entries = [
        (config, factor, not methods[name].shared)
        for (name, factor), adapters in sorted(groups.items())
        for config in methods[name].configs(adapters)
    ]
    entries.sort(key=lambda entry: entry[2])  # stable
    return Stack(
        configs=tuple(config for config, _, _ in entries),
        rate_factors=tuple(factor for _, factor, _ in entries),
    )


def common_learning_rate(plan: Plan) -> float | None:
    """The learning rate of all adapters of a plan; None where they differ."""
    factors = {adapter.rate_factor for adapter in plan.adapters} or {1.0}
    return plan.learning_rate * factors.pop() if len(factors) == 1 else None

"""A plan as `peft` configs, in the order in which they are attached."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from peft import PeftConfig

from autopeft.extension import Method
from autopeft.records import Adapter, Plan


def compile_plan(plan: Plan, methods: Mapping[str, Method]) -> list[PeftConfig]:
    """The `peft` configs of a plan, in the order in which they are attached; none for the head alone.

    A method whose sites share a state comes first, what wraps the whole model (a prompt) last,
    the others in the order of their names.
    """
    return [config for config, _ in compile_with_factors(plan, methods)]


def compile_with_factors(plan: Plan, methods: Mapping[str, Method]) -> list[tuple[PeftConfig, float]]:
    """Each config with the factor on its learning rate."""
    groups: dict[tuple[str, float], list[Adapter]] = defaultdict(list)
    for adapter in plan.adapters:
        groups[adapter.method, adapter.rate_factor].append(adapter)
    found = [
        (config, not methods[name].shared, factor)
        for (name, factor), adapters in sorted(groups.items())
        for config in methods[name].configs(adapters)
    ]
    found.sort(key=lambda entry: (entry[0].is_prompt_learning, entry[1]))  # stable
    return [(config, factor) for config, _, factor in found]

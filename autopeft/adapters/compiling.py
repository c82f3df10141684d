"""Checks a plan against a base model, and writes it as a stack of `peft` configs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from peft import PeftConfig

from autopeft.errors import SpecError, TargetError, UnknownNameError
from autopeft.model import BaseModel, adapter_names
from autopeft.plugins import Method
from autopeft.types import Adapter, Plan, PlanDocument, Target


@dataclass(frozen=True, kw_only=True)
class Stack:
    """`peft` configs in the order in which they are attached; none for the task head alone.

    A method with a state shared by its target modules comes first. The adapters of a config train at the
    plan's learning rate times the config's entry in `rate_factors`.
    """

    configs: tuple[PeftConfig, ...]
    rate_factors: tuple[float, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The adapter names in a model; without configs `default`, for the task head alone."""
        return adapter_names(self.configs)


def compile_plan(plan: Plan, methods: Mapping[str, Method]) -> Stack:
    """Write a plan as `peft` configs; adapters of one method and one rate factor are written together."""
    groups: dict[tuple[str, float], list[Adapter]] = defaultdict(list)
    for adapter in plan.adapters:
        groups[adapter.method, adapter.rate_factor].append(adapter)
    shared_first = sorted(groups.items(), key=lambda item: (not methods[item[0][0]].shared, item[0]))
    pairs = [
        (config, factor)
        for (name, factor), adapters in shared_first
        for config in methods[name].configs(adapters)
    ]
    return Stack(
        configs=tuple(config for config, _ in pairs),
        rate_factors=tuple(factor for _, factor in pairs),
    )


def common_learning_rate(plan: Plan) -> float | None:
    """Return the learning rate of all adapters of a plan; None if they differ."""
    factors = {adapter.rate_factor for adapter in plan.adapters} or {1.0}
    return plan.learning_rate * factors.pop() if len(factors) == 1 else None


def check_plan(plan: Plan, base: BaseModel, methods: Mapping[str, Method]) -> None:
    """Refuse a plan that cannot be attached to the base model, as after an edit of its file.

    Raises UnknownNameError for a method or option that does not exist, TargetError for a target module that
    does not exist, has two adapters or does not fit the method, and SpecError for options, a rank or a number
    of parameters that the target module cannot have.
    """
    targets = {target.name: target for target in base.targets}
    cost = 0
    for adapter in plan.adapters:
        if (target := targets.pop(adapter.target, None)) is None:
            raise TargetError(
                f"{base.name} has no target module {adapter.target!r}, or two adapters share it; use the "
                "base model of the plan, and one adapter at each target module."
            )
        method = methods[adapter.method]
        if (refusal := method.refusal(target)) is not None:
            raise TargetError(
                f"{method.name} does not fit {target.name} ({refusal}); use another method there."
            )
        options = dict(adapter.options)
        for name, value in options.items():
            if value not in (allowed := method.choices.get(name, (value,))):
                where = f"{name} of {method.name} (at {target.name})"
                raise UnknownNameError(where, str(value), map(str, allowed))
        # All options are passed: a user's plan may have values that no search proposes, such as IA3's side.
        expected = dict(method.options(target, **options))
        if options != expected:
            raise SpecError(
                f"The options of {method.name} at {target.name} are {options}; they should be {expected}, or "
                f"another choice among {', '.join(method.choices) or 'none'}."
            )
        _require_rank(adapter, method, target)
        cost += method.cost(target, adapter.rank, options)
    if cost != plan.trainable_params:
        raise SpecError(
            f"The plan has {plan.trainable_params:,} trainable_params, but its adapters have {cost:,} on "
            f"{base.name}; correct the number, or use the base model that the plan was made for."
        )


def other_base_note(document: PlanDocument, base: BaseModel) -> str | None:
    """Note if a plan was made for a base model of another size; else None."""
    if document.base_params == base.base_params:
        return None
    return (
        f"The plan was made for a base model of {document.base_params:,} parameters; {base.name} has "
        f"{base.base_params:,}, and what the plan does not name gets no adapters."
    )


def _require_rank(adapter: Adapter, method: Method, target: Target) -> None:
    """Raise SpecError for a rank that the method cannot have at the target module; without ranks it is 0."""
    ranks = method.ranks(target, dict(adapter.options)) if method.ranked else (0,)
    if method.name == "lora":
        # A user's config may have ranks that no search proposes: `peft` attaches LoRA of any rank. Above both
        # sides of a layer it can only be a mistake.
        ranks = range(ranks[0], max(target.in_features, target.out_features) + 1, ranks[0])
    if adapter.rank not in ranks:
        allowed = ", ".join(map(str, ranks)) if len(ranks) < 6 else f"{ranks[0]}, {ranks[1]} … {ranks[-1]}"
        raise SpecError(f"The rank of {method.name} at {target.name} is {adapter.rank}, not {allowed}.")

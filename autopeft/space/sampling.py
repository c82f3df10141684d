"""How an Optuna trial proposes a policy: one set of parameters for all arms of a space.

Every trial has every parameter, so that the model of a sampler learns from all trials: a good learning rate,
placement or depth of one arm counts for the others. An arm reads each parameter by the choices it has. If it
does not have the drawn value, it takes its first choice or the nearer end of its range. A parameter that the
arm does not have changes nothing in its policy.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

from autopeft.plugins import Method
from autopeft.space.spaces import ListedPlan, MethodSpace, Policy, Space

ARM, RATE = "method", "rate_position"
_CHOICES = ("placement", "select")  # fields of `MethodSpace` that list values
_SHARE = "layer_share"

Parameters = dict[str, Any]


def parameters(space: Space) -> dict[str, BaseDistribution]:
    """Return name -> distribution of every parameter of a trial; choices of one value are not parameters.

    `rate_position` is the place of the learning rate in the range of its arm: 0 at the lower end, 1 at the
    upper end, even in the logarithm. Parameters of later parts of a mix begin with `part2.`, `part3.` …
    """
    distributions: dict[str, BaseDistribution] = {}
    if len(space.arms) > 1:
        distributions[ARM] = CategoricalDistribution(space.arms)
    by_arm = [[part for _, part in space.parts(arm)] for arm in space.arms]
    rates = [parts[0].learning_rate for parts in by_arm]
    if any(rate is None or rate[0] < rate[1] for rate in rates):
        distributions[RATE] = FloatDistribution(0.0, 1.0)
    for index in range(max(map(len, by_arm))):
        parts_at_index = [parts[index] for parts in by_arm if index < len(parts)]
        for name in _CHOICES:
            values = _union(getattr(part, name) for part in parts_at_index)
            if len(values) > 1:
                distributions[_prefix(index) + name] = CategoricalDistribution(values)
        ends = [end for part in parts_at_index for end in part.layer_share]
        if min(ends) < max(ends):
            distributions[_prefix(index) + _SHARE] = FloatDistribution(min(ends), max(ends))
        for option in _union(part.options for part in parts_at_index):
            values = _union(part.options.get(option, ()) for part in parts_at_index)
            if len(values) > 1:
                distributions[_prefix(index) + option] = CategoricalDistribution(values)
    return distributions


def _prefix(index: int) -> str:
    return "" if index == 0 else f"part{index + 1}."


def _union(values: Iterable[Iterable[Any]]) -> list[Any]:
    return list(dict.fromkeys(chain.from_iterable(values)))


def is_point_of(space: Space, policy: Policy | ListedPlan) -> bool:
    """Whether a space has a policy's method, with its placement, choice of layers and options."""
    part = space.methods.get(policy.method)
    is_whole = policy.layer_share == 1 and policy.select != "best_modules"
    return (
        part is not None
        and policy.placement in part.placement
        and (is_whole or policy.select in part.select)
        and all(value in part.options.get(option, ()) for option, value in dict(policy.options).items())
    )


def parameters_of(
    policy: Policy,
    distributions: Mapping[str, BaseDistribution],
    space: Space,
    methods: Mapping[str, Method],
) -> Parameters:
    """Return all parameters of a trial that stands for a policy; those that it does not have are the first.

    `distributions` are those of `parameters`. A number outside of its range takes the nearer end.
    """
    low, high = learning_rates(space, policy.method, methods)
    position = math.log(policy.learning_rate / low) / math.log(high / low) if low < high else 0.0
    method = methods[policy.method]
    own: Parameters = {
        ARM: policy.method,
        RATE: min(max(position, 0.0), 1.0),
        **{name: getattr(policy, name) for name in (*_CHOICES, _SHARE)},
        **{option: values[0] for option, values in method.choices.items()},
        **dict(policy.options),
    }
    drawn: Parameters = {}
    for name, distribution in distributions.items():
        if isinstance(distribution, CategoricalDistribution):
            value = own.get(name, distribution.choices[0])
            drawn[name] = value if value in distribution.choices else distribution.choices[0]
        else:
            assert isinstance(distribution, FloatDistribution)
            drawn[name] = min(max(own.get(name, distribution.low), distribution.low), distribution.high)
    return drawn


def policy_of_parameters(drawn: Parameters, space: Space, methods: Mapping[str, Method]) -> Policy:
    """Make the policy of drawn parameters; for a missing one it takes the first choice or the lower end."""
    arm = drawn.get(ARM, space.arms[0])
    low, high = learning_rates(space, arm, methods)
    rate = low * (high / low) ** drawn.get(RATE, 0.0) if low < high else low
    lead, *other_parts = (
        _policy_of_part(drawn, methods[method], part, index=index, rate=rate)
        for index, (method, part) in enumerate(space.parts(arm))
    )
    return replace(lead, other_parts=tuple(other_parts))


def _policy_of_part(
    drawn: Mapping[str, Any], method: Method, part: MethodSpace, *, index: int, rate: float
) -> Policy:
    """Make one part of an arm's policy; all parts have the learning rate of the first."""

    def choice(name: str, choices: Sequence[Any]) -> Any:
        value = drawn.get(_prefix(index) + name, choices[0])
        return value if value in choices else choices[0]

    lowest, highest = part.layer_share
    options = {option: choice(option, values) for option, values in part.options.items()}
    return Policy(
        method=method.name,
        placement=choice("placement", part.placement),
        layer_share=min(max(drawn.get(_prefix(index) + _SHARE, lowest), lowest), highest),
        select=choice("select", part.select),
        options=tuple((o, value) for o, value in options.items() if value != method.choices[o][0]),
        max_rank=part.max_rank,
        learning_rate=rate,
    )


def learning_rates(space: Space, arm: str, methods: Mapping[str, Method]) -> tuple[float, float]:
    """Return the learning rates of a method, or a mix's first part: the space's range, else the method's."""
    if arm not in space.arms:
        return methods[arm].learning_rate_range
    (name, part), *_ = space.parts(arm)
    return part.learning_rate or methods[name].learning_rate_range

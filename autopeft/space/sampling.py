"""How an Optuna trial proposes a policy: one set of parameters for all arms of a space.

Every trial has every parameter, so that the model of a sampler learns from all trials: a good learning rate,
placement or depth of one arm counts for the others. An arm reads each parameter by the choices it has. Where
it lacks the drawn value, it takes its first choice or the nearer end of its range. A parameter that the arm
does not have changes nothing in its policy.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import BaseTrial

from autopeft.extension import Method
from autopeft.space.policies import Policy
from autopeft.space.spaces import MethodSpace, Space

ARM, RATE = "method", "rate_position"
_CHOICES = ("placement", "layers_by", "ranks_by")  # fields of `MethodSpace` that list values
_RANGES = ("layer_share", "exponent")  # fields with a lower and an upper end

Parameters = dict[str, Any]


def parameters(space: Space) -> dict[str, BaseDistribution]:
    """Name -> distribution of every parameter of a trial; choices of one value are no parameters.

    `rate_position` is the place of the learning rate in the range of its arm: 0 at the lower end, 1 at the
    upper end, even in the logarithm. Those of further parts of mixes begin with `part2.`, `part3.` and so on.
    """
    distributions: dict[str, BaseDistribution] = {}
    if len(space.arms) > 1:
        distributions[ARM] = CategoricalDistribution(space.arms)
    parts = _parts_by_index(space)
    if any(part.learning_rate is None or part.learning_rate[0] < part.learning_rate[1] for part in parts[0]):
        distributions[RATE] = FloatDistribution(0.0, 1.0)
    for index, alike in enumerate(parts):
        distributions |= {_prefix(index) + name: each for name, each in _of_parts(alike)}
    return distributions


def _parts_by_index(space: Space) -> list[list[MethodSpace]]:
    """The first parts of all arms, then their second parts, and so on."""
    by_arm = [[part for _, part in space.parts(arm)] for arm in space.arms]
    longest = max(map(len, by_arm))
    return [[parts[index] for parts in by_arm if index < len(parts)] for index in range(longest)]


def _prefix(index: int) -> str:
    return "" if index == 0 else f"part{index + 1}."


def _of_parts(parts: Sequence[MethodSpace]) -> Iterator[tuple[str, BaseDistribution]]:
    """The parameters of parts at one place of their arms, but for the learning rate."""
    for name in _CHOICES:
        values = _union(getattr(part, name) for part in parts)
        if len(values) > 1:
            yield name, CategoricalDistribution(values)
    for name in _RANGES:
        low, high = _hull(getattr(part, name) for part in parts)
        if low < high:
            yield name, FloatDistribution(low, high)
    for option in _union(part.options for part in parts):
        values = _union(part.options.get(option, ()) for part in parts)
        if len(values) > 1:
            yield option, CategoricalDistribution(values)


def _union(values: Iterable[Iterable[Any]]) -> list[Any]:
    return list(dict.fromkeys(value for some in values for value in some))


def _hull(ranges: Iterable[tuple[float, float]]) -> tuple[float, float]:
    lows, highs = zip(*ranges, strict=True)
    return min(lows), max(highs)


def suggest(trial: BaseTrial, space: Space, methods: Mapping[str, Method]) -> Policy:
    """The policy that a trial's sampler proposes."""
    drawn: Parameters = {}
    for name, each in parameters(space).items():
        if isinstance(each, CategoricalDistribution):
            drawn[name] = trial.suggest_categorical(name, each.choices)
        else:
            assert isinstance(each, FloatDistribution)
            drawn[name] = trial.suggest_float(name, each.low, each.high)
    arm = drawn.get(ARM, space.arms[0])
    rate = _rate_at(drawn.get(RATE, 0.0), learning_rates(space, arm, methods))
    lead, *beside = (
        _policy_of_part(drawn, methods[method], part, index=index, rate=rate)
        for index, (method, part) in enumerate(space.parts(arm))
    )
    return replace(lead, beside=tuple(beside))


def _policy_of_part(
    drawn: Mapping[str, Any], method: Method, part: MethodSpace, *, index: int, rate: float
) -> Policy:
    """One part of an arm's policy; all parts have the learning rate of the first."""

    def chosen(name: str, choices: Sequence[Any]) -> Any:
        value = drawn.get(_prefix(index) + name, choices[0])
        return value if value in choices else choices[0]

    def number(name: str, bounds: tuple[float, float]) -> float:
        return _clipped(drawn.get(_prefix(index) + name, bounds[0]), bounds)

    options = {option: chosen(option, values) for option, values in part.options.items()}
    return Policy(
        method=method.name,
        placement=chosen("placement", part.placement),
        layer_share=number("layer_share", part.layer_share),
        layers_by=chosen("layers_by", part.layers_by),
        exponent=number("exponent", part.exponent),
        ranks_by=chosen("ranks_by", part.ranks_by),
        options=tuple((o, value) for o, value in options.items() if value != method.choices[o][0]),
        max_rank=part.max_rank,
        learning_rate=rate,
    )


def _clipped(value: float, bounds: tuple[float, float]) -> float:
    low, high = bounds
    return min(max(value, low), high)


def _rate_at(position: float, bounds: tuple[float, float]) -> float:
    low, high = bounds
    return low * (high / low) ** position if low < high else low


def within(policy: Policy, space: Space, arm: str, methods: Mapping[str, Method]) -> Policy | None:
    """The policy in the words of an arm of its methods; None where the arm has no such policy.

    It takes the arm's caps on ranks. Even ranks may be called `uniform` there, and all layers any share.
    """
    parts = space.parts(arm)
    worded = [_worded(p, part) for p, (_, part) in zip((policy, *policy.beside), parts, strict=True)]
    lead, *others = worded
    has_all = all(_has(part, p, methods[name]) for p, (name, part) in zip(worded, parts, strict=True))
    return replace(lead, beside=tuple(others)) if has_all else None


def _worded(policy: Policy, part: MethodSpace) -> Policy:
    """One part of a policy with the cap on ranks of a space, and its word for the same ranks and layers."""
    policy = replace(policy, max_rank=part.max_rank)
    if policy.exponent == 0 and "uniform" in part.ranks_by and policy.ranks_by not in part.ranks_by:
        policy = replace(policy, ranks_by="uniform")
    if policy.layer_share == 1:
        policy = replace(policy, layers_by="last" if "last" in part.layers_by else "score")
    return policy


def _has(part: MethodSpace, policy: Policy, method: Method) -> bool:
    """Whether a part of an arm has the choices of a policy."""
    options = dict(policy.options)
    chosen = {option: options.pop(option, method.choices[option][0]) for option in part.options}
    return (
        not options
        and all(value in part.options[option] for option, value in chosen.items())
        and policy.placement in part.placement
        and policy.layers_by in part.layers_by
        and part.layer_share[0] <= policy.layer_share <= part.layer_share[1]
        and policy.ranks_by in part.ranks_by
        and part.exponent[0] <= policy.exponent <= part.exponent[1]
    )


def learning_rates(space: Space, arm: str, methods: Mapping[str, Method]) -> tuple[float, float]:
    """The range of learning rates of a method or a mix's first part: the space's, else the method's."""
    if arm not in space.arms:
        return methods[arm].learning_rate_range
    (name, part), *_ = space.parts(arm)
    return part.learning_rate or methods[name].learning_rate_range

"""Policies: a dozen choices, and how an Optuna trial proposes them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from optuna.trial import BaseTrial, FixedTrial

from autopeft.extension import Method
from autopeft.records import Arm, Options
from autopeft.space.spaces import MethodSpace, Space

_LEAST_EXPONENT = 0.25  # below it the ranks hardly follow the score; chosen by hand


@dataclass(frozen=True, kw_only=True)
class Policy:
    """One point of a search space, from which an allocation makes a plan.

    Its choices are those of `MethodSpace`. `layers_by` may also be a string of 0s and 1s, which turn equal
    parts of the depth off or on. `exponent` counts only where `ranks_by` is score. `options` leaves defaults
    out. Bounds on ranks that are None are the method's; a `max_rank` of 0 leaves the part out.
    `budget_share`, in (0, 1], is that of the whole plan. `learning_rate` is the peak rate of the first part;
    the others train at a multiple of it. `beside` holds the other parts of a mix: each takes those of its
    sites that are left, and all share one budget.
    """

    method: str
    placement: str = "all"
    layer_share: float = 1.0
    layers_by: str = "last"
    exponent: float = 0.0
    ranks_by: str = "score"
    options: Options = ()
    min_rank: int | None = None
    max_rank: int | None = None
    budget_share: float = 1.0
    learning_rate: float
    beside: tuple[Policy, ...] = ()

    @property
    def arm(self) -> Arm:
        """Method × placement family, such as `lora/attention`, the parts of a mix joined by &."""
        parts = (self, *self.beside)
        methods = tuple(part.method for part in parts)
        return Arm(kind="sampled", label=" & ".join(map(_family, parts)), methods=methods)

    @property
    def uses_score(self) -> bool:
        """Whether a score decides ranks or layers of this policy or of a part beside it."""
        follows = self.exponent >= _LEAST_EXPONENT and self.ranks_by == "score"
        selects = self.layers_by == "score" and self.layer_share < 1
        is_led = follows or selects or self.ranks_by == "spectrum"
        return is_led or any(part.uses_score for part in self.beside)

    def without_score(self) -> Policy:
        """The policy with even ranks, and the last layers in place of the best-scored or any others."""
        beside = tuple(part.without_score() for part in self.beside)
        return replace(self, exponent=0.0, ranks_by="score", layers_by="last", beside=beside)


def _family(policy: Policy) -> str:
    """Method, options and placement of one part; the scale rule, a tuned number of it, is left out."""
    shown = [(n, value) for n, value in policy.options if n != "scale_rule" and value is not False]
    options = [name if value is True else str(value) for name, value in shown]
    return f"{'+'.join([policy.method, *options])}/{policy.placement}"


def suggest(trial: BaseTrial, space: Space, methods: Mapping[str, Method]) -> Policy:
    """The policy that a trial's sampler proposes; choices of one value are no parameters of the trial."""
    arm = _choose(trial, "method", space.arms)
    (name, part), *others = space.parts(arm)
    first, *prefixes = _prefixes(space, arm)
    lead = _suggest_part(trial, methods[name], part, prefix=first)
    beside = [
        _suggest_part(trial, methods[method], other, prefix=prefix, lead=lead)
        for (method, other), prefix in zip(others, prefixes, strict=True)
    ]
    share = _draw(trial, f"{first}.budget_share", part.budget_share, log=True)
    rate = _draw(trial, f"{first}.learning_rate", learning_rates(space, arm, methods), log=True)
    at_rate = tuple(replace(policy, learning_rate=rate) for policy in beside)
    return replace(lead, budget_share=share, learning_rate=rate, beside=at_rate)


def _prefixes(space: Space, arm: str) -> list[str]:
    """Prefixes of the parameters of each part: the method, or the mix and the part's place in it."""
    n_parts = len(space.parts(arm))
    return [arm] if n_parts == 1 else [f"{arm}.{index}" for index in range(n_parts)]


def _suggest_part(
    trial: BaseTrial, method: Method, part: MethodSpace, *, prefix: str, lead: Policy | None = None
) -> Policy:
    """One part without its learning rate and budget share."""
    chosen = {option: _choose(trial, f"{prefix}.{option}", values) for option, values in part.options.items()}
    share = _draw(trial, f"{prefix}.layer_share", part.layer_share)
    layers_by = _choose(trial, f"{prefix}.layers_by", part.layers_by)
    if layers_by == "any":
        bits = [_choose(trial, f"{prefix}.depth.{index}", (0, 1)) for index in range(part.depth_parts)]
        layers_by = "".join(map(str, bits))
    elif layers_by == "lead" and lead is not None:
        share, layers_by = lead.layer_share, lead.layers_by
    size = _choose(trial, f"{prefix}.size", part.size) if part.size else None
    return Policy(
        method=method.name,
        placement=_choose(trial, f"{prefix}.placement", part.placement),
        layer_share=share,
        layers_by=layers_by,
        exponent=_draw(trial, f"{prefix}.exponent", part.exponent),
        ranks_by=_choose(trial, f"{prefix}.ranks_by", part.ranks_by),
        options=tuple((o, value) for o, value in chosen.items() if value != method.choices[o][0]),
        min_rank=part.min_rank if size is None else size,
        max_rank=part.max_rank if size is None else size,
        learning_rate=0.0,  # one rate for all parts is drawn afterwards
    )


def _choose(trial: BaseTrial, name: str, choices: Sequence[Any]) -> Any:
    return choices[0] if len(choices) == 1 else trial.suggest_categorical(name, choices)


def _draw(trial: BaseTrial, name: str, bounds: tuple[float, float], *, log: bool = False) -> float:
    low, high = bounds
    return low if low == high else trial.suggest_float(name, low, high, log=log)


def parameters_of(policy: Policy, space: Space, methods: Mapping[str, Method]) -> dict[str, Any] | None:
    """The trial parameters under which `suggest` gives this policy; None where the space lacks it."""
    for arm in space.arms:
        if [name for name, _ in space.parts(arm)] == [part.method for part in (policy, *policy.beside)]:
            trial = FixedTrial(_all_parameters(policy, space, arm, methods))
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # Optuna only warns of a number outside its range
                with suppress(UserWarning, ValueError):
                    if suggest(trial, space, methods) == policy:
                        return trial.params
    return None


def _all_parameters(policy: Policy, space: Space, arm: str, methods: Mapping[str, Method]) -> dict[str, Any]:
    """Every parameter that `suggest` could ask for, also those of one value, whether in the space or not."""
    prefixes = _prefixes(space, arm)
    parameters: dict[str, Any] = {
        "method": arm,
        f"{prefixes[0]}.budget_share": policy.budget_share,
        f"{prefixes[0]}.learning_rate": policy.learning_rate,
    }
    for prefix, part, (_, choices) in zip(prefixes, (policy, *policy.beside), space.parts(arm), strict=True):
        is_any = set(part.layers_by) <= {"0", "1"} and len(part.layers_by) == choices.depth_parts
        defaults = {option: methods[part.method].choices[option][0] for option in choices.options}
        values: dict[str, Any] = {**defaults, **dict(part.options)}
        values |= {name: getattr(part, name) for name in ("placement", "layer_share", "exponent", "ranks_by")}
        values |= {"size": part.max_rank, "layers_by": "any" if is_any else part.layers_by}
        values |= {f"depth.{index}": int(bit) for index, bit in enumerate(part.layers_by) if is_any}
        parameters |= {f"{prefix}.{name}": value for name, value in values.items()}
    return parameters


def learning_rates(space: Space, arm: str, methods: Mapping[str, Method]) -> tuple[float, float]:
    """The range of learning rates of a method or a mix's first part: the space's, else the method's."""
    if arm not in space.arms:
        return methods[arm].learning_rate_range
    (name, part), *_ = space.parts(arm)
    return part.learning_rate or methods[name].learning_rate_range

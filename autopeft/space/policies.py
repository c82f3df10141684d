"""Policies: a dozen choices, and how an Optuna trial proposes them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from optuna.trial import Trial

from autopeft.extension import Method
from autopeft.records import Arm, Options
from autopeft.space.spaces import MethodSpace, Space

_SILENT_OPTIONS = ("scale_rule",)  # not part of an arm's name: the rule is one of its tuned numbers

_LEAST_EXPONENT = 0.25  # below it the ranks hardly follow the score; chosen by hand


@dataclass(frozen=True, kw_only=True)
class Policy:
    """One point of a search space, from which an allocation makes a plan.

    Attributes:
        method: Name of the method.
        placement: As in `MethodSpace`.
        layer_share: Share of the layers that are kept, in (0, 1].
        layers_by: A way of `MethodSpace`, or a string of 0s and 1s: equal parts of the depth, off or on.
        exponent: Power of the score, >= 0; it counts only where `ranks_by` is score.
        ranks_by: As in `MethodSpace`.
        options: Options of the method other than its defaults.
        min_rank: Smallest rank of an adapter; None for the method's.
        max_rank: Largest rank of an adapter; 0 leaves this part out, None is the method's.
        budget_share: Share of the budget that the whole plan may spend, in (0, 1].
        learning_rate: Peak learning rate of the first part; other parts train at a multiple of it.
        beside: The other parts of a mix. Each takes those of its sites that are left; all share the budget.
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
        return Arm(kind="sampled", label=" & ".join(map(_family, (self, *self.beside))))

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
    """Method, options other than defaults, and placement of one part."""
    shown = [item for item in policy.options if item[0] not in _SILENT_OPTIONS and item[1] is not False]
    options = [name if value is True else str(value) for name, value in shown]
    return f"{'+'.join([policy.method, *options])}/{policy.placement}"


def suggest(trial: Trial, space: Space, methods: Mapping[str, Method]) -> Policy:
    """The policy that a trial's sampler proposes; choices of one value are no parameters of the trial."""
    arm = _choose(trial, "method", space.arms)
    (name, part), *others = space.parts(arm)
    prefixes = _prefixes(space, arm)
    lead = _suggest_part(trial, methods[name], part, prefix=prefixes[0])
    beside = tuple(
        _suggest_part(trial, methods[method], other, prefix=prefix, lead=lead)
        for (method, other), prefix in zip(others, prefixes[1:], strict=True)
    )
    share = _draw(trial, f"{prefixes[0]}.budget_share", part.budget_share, log=True)
    rate = _draw(trial, f"{prefixes[0]}.learning_rate", learning_rates(space, arm, methods), log=True)
    return replace(
        lead,
        budget_share=share,
        learning_rate=rate,
        beside=tuple(replace(policy, learning_rate=rate) for policy in beside),
    )


def _prefixes(space: Space, arm: str) -> list[str]:
    """Prefixes of the parameters of each part: the method, or the mix and the part's place in it."""
    n_parts = len(space.parts(arm))
    return [arm] if n_parts == 1 else [f"{arm}.{index}" for index in range(n_parts)]


def _suggest_part(
    trial: Trial, method: Method, part: MethodSpace, *, prefix: str, lead: Policy | None = None
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


def _choose(trial: Trial, name: str, choices: Sequence[Any]) -> Any:
    return choices[0] if len(choices) == 1 else trial.suggest_categorical(name, choices)


def _draw(trial: Trial, name: str, bounds: tuple[float, float], *, log: bool = False) -> float:
    low, high = bounds
    return low if low == high else trial.suggest_float(name, low, high, log=log)


def parameters_of(policy: Policy, space: Space, methods: Mapping[str, Method]) -> dict[str, Any] | None:
    """The trial parameters under which `suggest` gives this policy; None where the space lacks it."""
    policies = (policy, *policy.beside)
    for arm in space.arms:
        parts = space.parts(arm)
        if [name for name, _ in parts] != [part_policy.method for part_policy in policies]:
            continue
        prefixes = _prefixes(space, arm)
        by_part = [
            _part_parameters(part_policy, part, methods[name], prefix=prefix, lead=policy)
            for part_policy, (name, part), prefix in zip(policies, parts, prefixes, strict=True)
        ]
        drawn = {
            "budget_share": (policy.budget_share, parts[0][1].budget_share),
            "learning_rate": (policy.learning_rate, learning_rates(space, arm, methods)),
        }
        if None not in by_part and _all_within(drawn):
            parameters: dict[str, Any] = {"method": arm} if len(space.arms) > 1 else {}
            for part_parameters in by_part:
                parameters |= part_parameters or {}
            return parameters | {f"{prefixes[0]}.{name}": value for name, value in _free(drawn).items()}
    return None


def _part_parameters(
    policy: Policy, part: MethodSpace, method: Method, *, prefix: str, lead: Policy
) -> dict[str, Any] | None:
    """The parameters of one part but for its learning rate and share; None where the space lacks it."""
    options = dict(policy.options)
    if not set(options) <= set(part.options):
        return None
    chosen: dict[str, tuple[Any, Sequence[Any]]] = {
        "placement": (policy.placement, part.placement),
        "ranks_by": (policy.ranks_by, part.ranks_by),
    }
    if part.size:
        chosen["size"] = (policy.max_rank if policy.max_rank == policy.min_rank else None, part.size)
    elif (policy.min_rank, policy.max_rank) != (part.min_rank, part.max_rank):
        return None
    for option, values in part.options.items():
        chosen[option] = (options.get(option, method.choices[option][0]), values)
    drawn = {"exponent": (policy.exponent, part.exponent)}
    if part.layers_by == ("lead",):
        if (policy.layers_by, policy.layer_share) != (lead.layers_by, lead.layer_share):
            return None
    else:
        is_any = set(policy.layers_by) <= {"0", "1"} and len(policy.layers_by) == part.depth_parts
        chosen["layers_by"] = ("any" if is_any else policy.layers_by, part.layers_by)
        drawn["layer_share"] = (policy.layer_share, part.layer_share)
        for index, bit in enumerate(policy.layers_by if is_any else ""):
            chosen[f"depth.{index}"] = (int(bit), (0, 1))
    if any(value not in values for value, values in chosen.values()) or not _all_within(drawn):
        return None
    free = {name: value for name, (value, values) in chosen.items() if len(values) > 1}
    return {f"{prefix}.{name}": value for name, value in (free | _free(drawn)).items()}


_Drawn = Mapping[str, tuple[float, tuple[float, float]]]  # name -> value and its range


def _all_within(drawn: _Drawn) -> bool:
    return all(low <= value <= high for value, (low, high) in drawn.values())


def _free(drawn: _Drawn) -> dict[str, float]:
    """The values whose range has more than one number."""
    return {name: value for name, (value, (low, high)) in drawn.items() if low < high}


def learning_rates(space: Space, arm: str, methods: Mapping[str, Method]) -> tuple[float, float]:
    """The range of learning rates of a method or a mix's first part: the space's, else the method's."""
    if arm not in space.arms:
        return methods[arm].learning_rate_range
    (name, part), *_ = space.parts(arm)
    return part.learning_rate or methods[name].learning_rate_range


def rate_factor(method: Method, lead: Method) -> float:
    """How many times the first part's learning rate another part of a mix trains at.

    The ratio of the middles (in the logarithm) of their ranges, to three digits: a plan has
    one learning rate, and one rate for two methods would be wrong for one of them.
    """
    middles = [math.sqrt(math.prod(part.learning_rate_range)) for part in (method, lead)]
    return float(f"{middles[0] / middles[1]:.3g}")

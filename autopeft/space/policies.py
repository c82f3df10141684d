"""Policies: a dozen choices, and how an Optuna trial proposes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from optuna.trial import Trial

from autopeft.extension import Method
from autopeft.records import Arm, Options
from autopeft.space.files import MethodSpace, Space

_SILENT_OPTIONS = ("scale_rule",)  # not part of an arm's name: the rule is one of its tuned numbers


@dataclass(frozen=True, kw_only=True)
class Policy:
    """One point of a search space; `layer_share` in (0, 1], `exponent` >= 0 (0 is uniform).

    `layers_by` is one of the ways of a space, or a string of 0s and 1s: equal parts of the depth, off or on.
    Where `ranks_by` is spectrum, ranks follow the context's profiles; where it is uniform they are even. The
    exponent has no say then.
    No site gets a rank above `max_rank` (0: nothing anywhere) or, but for none at all, below `min_rank`.
    `budget_share` in (0, 1] is what the whole plan may spend of the budget.

    `beside` are the other parts of a mix: each takes of its own sites those that are left, and
    shares the budget; they are told the first part's learning rate, and train at a multiple of it.
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


def _family(policy: Policy) -> str:
    """Method, options other than defaults, and placement of one part."""
    shown = [item for item in policy.options if item[0] not in _SILENT_OPTIONS and item[1] is not False]
    options = [name if value is True else str(value) for name, value in shown]
    return f"{'+'.join([policy.method, *options])}/{policy.placement}"


def suggest(trial: Trial, space: Space, methods: Mapping[str, Method]) -> Policy:
    """The policy that a trial's sampler proposes; choices of one are not asked for."""
    arm = _choose(trial, "method", space.arms)
    (name, own), *others = space.parts(arm)
    prefixes = _prefixes(space, arm)
    lead = _suggest_part(trial, methods[name], own, prefix=prefixes[0])
    beside = tuple(
        _suggest_part(trial, methods[method], part, prefix=prefix, lead=lead)
        for (method, part), prefix in zip(others, prefixes[1:], strict=True)
    )
    share = _draw(trial, f"{prefixes[0]}.budget_share", own.budget_share, log=True)
    rate = _draw(trial, f"{prefixes[0]}.learning_rate", learning_rates(space, arm, methods), log=True)
    return replace(
        lead,
        budget_share=share,
        learning_rate=rate,
        beside=tuple(replace(part, learning_rate=rate) for part in beside),
    )


def _prefixes(space: Space, arm: str) -> list[str]:
    """What the parameters of each part are called in the study: after the method, or mix and place in it."""
    n_parts = len(space.parts(arm))
    return [arm] if n_parts == 1 else [f"{arm}.{index}" for index in range(n_parts)]


def _suggest_part(
    trial: Trial, method: Method, own: MethodSpace, *, prefix: str, lead: Policy | None = None
) -> Policy:
    """One part without its learning rate and share; options at their defaults are not told."""
    chosen = {option: _choose(trial, f"{prefix}.{option}", values) for option, values in own.options.items()}
    share = _draw(trial, f"{prefix}.layer_share", own.layer_share)
    layers_by = _choose(trial, f"{prefix}.layers_by", own.layers_by)
    if layers_by == "any":
        layers_by = "".join(str(_choose(trial, name, (0, 1))) for name in _depth_names(own, prefix))
    elif layers_by == "lead" and lead is not None:
        share, layers_by = lead.layer_share, lead.layers_by
    size = _choose(trial, f"{prefix}.size", own.size) if own.size else None
    return Policy(
        method=method.name,
        placement=_choose(trial, f"{prefix}.placement", own.placement),
        layer_share=share,
        layers_by=layers_by,
        exponent=_draw(trial, f"{prefix}.exponent", own.exponent),
        ranks_by=_choose(trial, f"{prefix}.ranks_by", own.ranks_by),
        options=tuple((o, value) for o, value in chosen.items() if value != method.choices[o][0]),
        min_rank=own.min_rank if size is None else size,
        max_rank=own.max_rank if size is None else size,
        learning_rate=0.0,  # drawn for the first part alone
    )


def _depth_names(own: MethodSpace, prefix: str) -> list[str]:
    """What the choices of `any` are called in the study, one for each part of the depth."""
    return [f"{prefix}.depth.{index}" for index in range(own.depth_parts)]


def _choose(trial: Trial, name: str, choices: Sequence[Any]) -> Any:
    return choices[0] if len(choices) == 1 else trial.suggest_categorical(name, choices)


def _draw(trial: Trial, name: str, bounds: tuple[float, float], *, log: bool = False) -> float:
    low, high = bounds
    return low if low == high else trial.suggest_float(name, low, high, log=log)


def parameters_of(policy: Policy, space: Space, methods: Mapping[str, Method]) -> dict[str, Any] | None:
    """The trial parameters under which `suggest` gives this policy; None where the space lacks it."""
    wanted = (policy, *policy.beside)
    for arm in space.arms:
        parts = space.parts(arm)
        if [name for name, _ in parts] != [part.method for part in wanted]:
            continue
        prefixes = _prefixes(space, arm)
        told = [
            _part_parameters(part, own, methods[name], prefix=prefix, lead=policy)
            for part, (name, own), prefix in zip(wanted, parts, prefixes, strict=True)
        ]
        drawn = {
            "budget_share": (policy.budget_share, parts[0][1].budget_share),
            "learning_rate": (policy.learning_rate, learning_rates(space, arm, methods)),
        }
        if None not in told and all(low <= value <= high for value, (low, high) in drawn.values()):
            parameters: dict[str, Any] = {"method": arm} if len(space.arms) > 1 else {}
            parameters |= {name: value for part in told for name, value in (part or {}).items()}
            return parameters | {
                f"{prefixes[0]}.{name}": value for name, (value, (low, high)) in drawn.items() if low < high
            }
    return None


def _part_parameters(
    policy: Policy, own: MethodSpace, method: Method, *, prefix: str, lead: Policy
) -> dict[str, Any] | None:
    """The parameters of one part, its learning rate and share apart."""
    given = dict(policy.options)
    if not set(given) <= set(own.options):
        return None
    chosen: dict[str, tuple[Any, Sequence[Any]]] = {
        "placement": (policy.placement, own.placement),
        "ranks_by": (policy.ranks_by, own.ranks_by),
    }
    if own.size:
        chosen["size"] = (policy.max_rank if policy.max_rank == policy.min_rank else None, own.size)
    elif (policy.min_rank, policy.max_rank) != (own.min_rank, own.max_rank):
        return None
    for option, values in own.options.items():
        chosen[option] = (given.get(option, method.choices[option][0]), values)
    drawn = {"exponent": (policy.exponent, own.exponent)}
    if own.layers_by == ("lead",):
        if (policy.layers_by, policy.layer_share) != (lead.layers_by, lead.layer_share):
            return None
    else:
        is_any = set(policy.layers_by) <= {"0", "1"} and len(policy.layers_by) == own.depth_parts
        chosen["layers_by"] = ("any" if is_any else policy.layers_by, own.layers_by)
        drawn["layer_share"] = (policy.layer_share, own.layer_share)
        if is_any:
            for index, bit in enumerate(policy.layers_by):
                chosen[f"depth.{index}"] = (int(bit), (0, 1))
    if any(value not in values for value, values in chosen.values()):
        return None
    if any(not low <= value <= high for value, (low, high) in drawn.values()):
        return None
    told = {name: value for name, (value, values) in chosen.items() if len(values) > 1}
    told |= {name: value for name, (value, (low, high)) in drawn.items() if low < high}
    return {f"{prefix}.{name}": value for name, value in told.items()}


def learning_rates(space: Space, arm: str, methods: Mapping[str, Method]) -> tuple[float, float]:
    """The range of learning rates of a method or a mix's first part: the space's, else its own."""
    if arm not in space.arms:
        return methods[arm].learning_rate_range
    (name, own), *_ = space.parts(arm)
    return own.learning_rate or methods[name].learning_rate_range

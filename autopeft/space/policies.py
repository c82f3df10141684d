"""Policies: a dozen choices that the allocator of `budget` turns into a plan.

So every proposal is feasible, and the sampler works on few dimensions.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from optuna.trial import Trial

from autopeft.budget import Claim, allocate, natural_key
from autopeft.extension import Method
from autopeft.model import ROLE_GROUPS
from autopeft.records import Adapter, Options, Plan, Site
from autopeft.space.files import MethodSpace, Space

_SILENT_OPTIONS = ("scale_rule",)  # not part of an arm's name: the rule is one of its tuned numbers


@dataclass(frozen=True, kw_only=True)
class Policy:
    """One point of a search space; `layer_share` in (0, 1], `exponent` >= 0 (0 is uniform).

    Where `ranks_by` is spectrum, ranks follow the ground's profiles and the exponent has no say.

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
    max_rank: int | None = None
    learning_rate: float
    beside: tuple[Policy, ...] = ()

    @property
    def arm(self) -> str:
        """Method × placement family, such as `lora/attention`, the parts of a mix joined by &."""
        told = [name if value is True else str(value) for name, value in self._told_options]
        own = f"{'+'.join([self.method, *told])}/{self.placement}"
        return " & ".join([own, *(part.arm for part in self.beside)])

    @property
    def _told_options(self) -> Options:
        return tuple(item for item in self.options if item[0] not in _SILENT_OPTIONS and item[1] is not False)


@dataclass(frozen=True, kw_only=True)
class Ground:
    """What policies are laid out on: the sites, their scores, the methods, and what may be spent.

    `scores` maps site name -> value >= 0, `profiles` to what each further rank adds (the energy of
    the gradient's spectrum), for policies that ask for it; `max_params` is what is left for adapters;
    `max_virtual_tokens` is the room beside the longest text, None where there is no limit.
    """

    sites: tuple[Site, ...]
    scores: Mapping[str, float]
    methods: Mapping[str, Method]
    max_params: int
    max_virtual_tokens: int | None = None
    profiles: Mapping[str, Sequence[float]] = field(default_factory=dict)


def feasible(space: Space, ground: Ground) -> Space:
    """The space without the methods of which not even one site fits the budget, or none fits the model."""
    costs = cheapest(space, ground)
    return space.only(arm for arm in space.arms if costs.get(arm, ground.max_params + 1) <= ground.max_params)


def cheapest(space: Space, ground: Ground) -> dict[str, int]:
    """Method or mix -> trainable parameters of its smallest plan, for those that fit some site.

    The smallest plan of a mix has one adapter of each part.
    """
    smallest = {}
    for arm in space.arms:
        costs = [_cheapest_adapter(ground.methods[name], own, ground) for name, own in space.parts(arm)]
        if all(costs):
            smallest[arm] = sum(cost for cost in costs if cost)
    return smallest


def _cheapest_adapter(method: Method, own: MethodSpace, ground: Ground) -> int | None:
    """Of the method's default options at any site; None where it fits nowhere."""
    chosen = {name: values[0] for name, values in own.options.items()}
    costs = []
    for site in ground.sites:
        if method.refusal(site) is None:
            options = method.options(site, **chosen)
            costs.append(method.cost(site, method.ranks(site, options)[0], options))
    return min(costs, default=None)


def suggest(trial: Trial, space: Space, methods: Mapping[str, Method]) -> Policy:
    """The policy that a trial's sampler proposes; choices of one are not asked for."""
    arm = _choose(trial, "method", space.arms)
    (name, own), *others = space.parts(arm)
    rates = learning_rates(space, arm, methods)
    prefixes = _prefixes(space, arm)
    beside = tuple(
        _suggest_part(trial, methods[method], part, prefix=prefix)
        for (method, part), prefix in zip(others, prefixes[1:], strict=True)
    )
    lead = _suggest_part(trial, methods[name], own, prefix=prefixes[0])
    rate = _draw(trial, f"{prefixes[0]}.learning_rate", rates, log=True)
    return replace(
        lead, learning_rate=rate, beside=tuple(replace(part, learning_rate=rate) for part in beside)
    )


def _prefixes(space: Space, arm: str) -> list[str]:
    """What the parameters of each part are called in the study: after the method, or mix and place in it."""
    n_parts = len(space.parts(arm))
    return [arm] if n_parts == 1 else [f"{arm}.{index}" for index in range(n_parts)]


def _suggest_part(trial: Trial, method: Method, own: MethodSpace, *, prefix: str) -> Policy:
    """One part without its learning rate; options at their defaults are not told."""
    chosen = {option: _choose(trial, f"{prefix}.{option}", values) for option, values in own.options.items()}
    return Policy(
        method=method.name,
        placement=_choose(trial, f"{prefix}.placement", own.placement),
        layer_share=_draw(trial, f"{prefix}.layer_share", own.layer_share),
        layers_by=_choose(trial, f"{prefix}.layers_by", own.layers_by),
        exponent=_draw(trial, f"{prefix}.exponent", own.exponent),
        ranks_by=_choose(trial, f"{prefix}.ranks_by", own.ranks_by),
        options=tuple((o, value) for o, value in chosen.items() if value != method.choices[o][0]),
        max_rank=own.max_rank,
        learning_rate=0.0,  # drawn for the first part alone
    )


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
            _part_parameters(part, own, methods[name], prefix=prefix)
            for part, (name, own), prefix in zip(wanted, parts, prefixes, strict=True)
        ]
        low, high = learning_rates(space, arm, methods)
        if None not in told and low <= policy.learning_rate <= high:
            parameters: dict[str, Any] = {"method": arm} if len(space.arms) > 1 else {}
            parameters |= {name: value for part in told for name, value in (part or {}).items()}
            rate = {f"{prefixes[0]}.learning_rate": policy.learning_rate} if low < high else {}
            return parameters | rate
    return None


def _part_parameters(
    policy: Policy, own: MethodSpace, method: Method, *, prefix: str
) -> dict[str, Any] | None:
    """The parameters of one part, its learning rate apart."""
    given = dict(policy.options)
    if policy.max_rank != own.max_rank or not set(given) <= set(own.options):
        return None
    chosen: dict[str, tuple[Any, Sequence[Any]]] = {
        "placement": (policy.placement, own.placement),
        "layers_by": (policy.layers_by, own.layers_by),
        "ranks_by": (policy.ranks_by, own.ranks_by),
    }
    for option, values in own.options.items():
        chosen[option] = (given.get(option, method.choices[option][0]), values)
    drawn = {
        "layer_share": (policy.layer_share, own.layer_share),
        "exponent": (policy.exponent, own.exponent),
    }
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


def rate_factor(method: Method, lead: Method) -> float:
    """How many times the first part's learning rate another part of a mix trains at.

    The ratio of the middles (in the logarithm) of their own ranges, to three digits: a plan has
    one learning rate, and one rate for two methods would be wrong for one of them.
    """
    return float(f"{_middle(method.learning_rate_range) / _middle(lead.learning_rate_range):.3g}")


def _middle(bounds: tuple[float, float]) -> float:
    return math.sqrt(bounds[0] * bounds[1])


def plan_of(policy: Policy, ground: Ground) -> Plan:
    """The plan that a policy means on this ground: never over the budget, no affordable upgrade left.

    A policy whose sites are all too dear is widened, first to all layers and roles, then to
    the cheapest options, so that no proposal is rejected for its size.
    """
    wider = replace(
        policy,
        placement="all",
        layer_share=1.0,
        beside=tuple(replace(part, placement="all", layer_share=1.0) for part in policy.beside),
    )
    plainer = replace(wider, options=(), beside=tuple(replace(part, options=()) for part in wider.beside))
    for attempt in (policy, wider, plainer):
        adapters = _allocate(attempt, ground)
        if adapters:
            break
    sites = {site.name: site for site in ground.sites}
    total = sum(ground.methods[a.method].cost(sites[a.site], a.rank, dict(a.options)) for a in adapters)
    return Plan(adapters=adapters, learning_rate=policy.learning_rate, trainable_params=total)


@dataclass(frozen=True, kw_only=True)
class _Place:
    """A site that a part of a policy asks one of some ranks for."""

    site: Site
    policy: Policy
    method: Method
    options: Options
    ranks: Sequence[int]

    def cost(self, rank: int) -> int:
        return self.method.cost(self.site, rank, dict(self.options))

    def adapter(self, rank: int, *, lead: Method) -> Adapter:
        is_lead = self.method.name == lead.name
        return Adapter(
            method=self.method.name,
            site=self.site.name,
            rank=rank if self.method.ranked else 0,
            scale=self.method.scale(rank, **dict(self.policy.options)),
            options=self.options,
            rate_factor=1.0 if is_lead else rate_factor(self.method, lead),
        )


def _allocate(policy: Policy, ground: Ground) -> tuple[Adapter, ...]:
    places: dict[str, _Place] = {}
    for part in (policy, *policy.beside):
        for site in select_sites(part, ground, ground.methods[part.method]):
            has_prompt = any(place.site.kind == "model" for place in places.values())
            place = None if has_prompt and site.kind == "model" else _place(part, site, ground)
            if place is not None:
                places.setdefault(site.name, place)
    claims = [
        Claim(
            site=name,
            weight=_weight(place, ground),
            ranks=place.ranks,
            cost=place.cost,
            gains=ground.profiles.get(name, ()) if place.policy.ranks_by == "spectrum" else None,
        )
        for name, place in places.items()
    ]
    ranks = allocate(claims, max_params=ground.max_params)
    lead = ground.methods[policy.method]
    return tuple(places[name].adapter(rank, lead=lead) for name, rank in ranks.items())


def _place(policy: Policy, site: Site, ground: Ground) -> _Place | None:
    """What a policy may do at a site; None where virtual tokens would leave no room for the texts."""
    method = ground.methods[policy.method]
    options = method.options(site, **dict(policy.options))
    ranks = method.ranks(site, options)
    if method.ranked and policy.max_rank is not None:  # the smallest stays, where a cap is below it
        ranks = ranks[: max(1, bisect_right(ranks, policy.max_rank))]
    if site.kind == "model" and ground.max_virtual_tokens is not None:
        ranks = ranks[: bisect_right(ranks, ground.max_virtual_tokens)]
    if not ranks:
        return None
    listed = tuple(sorted(options.items()))
    return _Place(site=site, policy=policy, method=method, options=listed, ranks=ranks)


def _weight(place: _Place, ground: Ground) -> float:
    """Score per trained parameter, bent by the exponent; 1 for all at exponent 0."""
    score = ground.scores[place.site.name]
    return float((score / place.cost(place.ranks[0])) ** place.policy.exponent)


def select_sites(policy: Policy, ground: Ground, method: Method) -> list[Site]:
    """The sites that a policy's roles and depth leave, in natural order of names.

    Sites outside the stack (a pooler, say) belong to the placement `all`. The deepest
    layers are kept, or those with the largest score over the candidate sites.
    """
    fitting = [
        site for site in ground.sites if method.refusal(site) is None and _has_role(site, policy.placement)
    ]
    layers = sorted({site.layer for site in fitting if site.layer is not None})
    n_kept = max(1, round(policy.layer_share * len(layers)))
    if policy.layers_by == "score":
        total = {layer: sum(ground.scores[s.name] for s in fitting if s.layer == layer) for layer in layers}
        layers.sort(key=lambda layer: (total[layer], layer))
    kept = {None, *layers[-n_kept:]}
    return sorted((site for site in fitting if site.layer in kept), key=lambda site: natural_key(site.name))


def _has_role(site: Site, placement: str) -> bool:
    if placement == "all":
        return True
    wanted = {role for part in placement.split("+") for role in ROLE_GROUPS.get(part, (part,))}
    return site.role in wanted


def baseline_policies(
    ground: Ground, *, learning_rate: float, max_rank: int | None = None
) -> dict[str, Policy]:
    """The LoRA that a careful person would use at this budget, by name.

    All linear maps where rank 1 fits everywhere; else both all maps of as many last layers
    as fit, and q and v of as many last layers as fit; the search finds the better one.
    """
    uniform = Policy(method="lora", learning_rate=learning_rate, max_rank=max_rank)
    if _rank_one_cost(uniform, ground) <= ground.max_params:
        return {"LoRA on all linear maps": uniform}
    queries = "q+v" if any(site.role == "q" for site in ground.sites) else "qkv"
    found = {}
    for label, placement in (("all linear maps", "all"), ("q and v", queries)):
        policy = _last_layers(replace(uniform, placement=placement), ground)
        if policy is not None:
            found[f"LoRA on {label} of the last layers"] = policy
    return found or {"LoRA on what fits": uniform}


def _last_layers(policy: Policy, ground: Ground) -> Policy | None:
    n_layers = len({site.layer for site in ground.sites if site.layer is not None})
    for kept in range(n_layers, 0, -1):
        candidate = replace(policy, layer_share=kept / n_layers)
        if 0 < _rank_one_cost(candidate, ground) <= ground.max_params:
            return candidate
    return None


def _rank_one_cost(policy: Policy, ground: Ground) -> int:
    method = ground.methods[policy.method]
    return sum(method.cost(site, 1, {}) for site in select_sites(policy, ground, method))

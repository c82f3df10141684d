"""From a policy to a plan: which target modules, and which of their ranks fit the budget."""

from __future__ import annotations

import sys
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from autopeft.budget import Claim, allocate, at_one_rank, natural_key
from autopeft.plugins import Method, rate_factor
from autopeft.space.spaces import Choices, MethodSpace, Policy, Space
from autopeft.types import (
    FUSED_ROLES,
    ROLE_GROUPS,
    Adapter,
    OptionValue,
    Plan,
    Target,
    layer_name,
)


@dataclass(frozen=True, kw_only=True)
class AllocationContext:
    """What an allocation needs next to a policy: target modules, scores, methods and the budget.

    `scores` maps a target module's name to its importance, >= 0. `max_params` bounds the trainable parameters
    of the adapters. `choices` are the values that the user's own trainer may have, the usual one first.
    """

    targets: tuple[Target, ...]
    scores: Mapping[str, float]
    methods: Mapping[str, Method]
    max_params: int
    choices: Choices = field(default_factory=dict)


def feasible(space: Space, context: AllocationContext) -> Space:
    """Drop methods and mixes that the budget does not cover, and placements without a fitting target."""
    costs = cheapest(space, context)

    def placed(name: str, part: MethodSpace) -> MethodSpace:
        fitting = _fitting_placements(context.methods[name], part, context)
        return part.model_copy(update={"placement": fitting or part.placement})

    return space.only(arm for arm, cost in costs.items() if cost <= context.max_params).narrowed(placed)


def _fitting_placements(method: Method, part: MethodSpace, context: AllocationContext) -> tuple[str, ...]:
    """Keep the placements of a part that hold a target module which its method fits."""
    return tuple(
        placement
        for placement in part.placement
        if any(method.refusal(target) is None for target in _targets_at(placement, context.targets))
    )


def cheapest(space: Space, context: AllocationContext) -> dict[str, int]:
    """Count the trainable parameters of the smallest plan of each method and mix that fits some target.

    The smallest plan of a method has one adapter, that of a mix one adapter of each part.
    """
    smallest = {}
    for arm in space.arms:
        costs: list[int | None] = []
        for name, part in space.parts(arm):
            method = context.methods[name]
            options = {option: values[0] for option, values in part.options.items()}
            # `plan_of` widens a placement that is too expensive to all target modules, so that all count.
            fits = bool(_fitting_placements(method, part, context))
            fitting = [target for target in context.targets if fits and method.refusal(target) is None]
            claims = [claim_at(target, method, options, part.max_rank) for target in fitting]
            costs.append(min((claim.cost(claim.ranks[0]) for claim in claims if claim), default=None))
        if None not in costs:
            smallest[arm] = sum(cost or 0 for cost in costs)
    return smallest


def plan_of(policy: Policy, context: AllocationContext) -> Plan:
    """Allocate the budget to the target modules of a policy; the plan never exceeds the budget.

    1. A method whose `peft` config holds one rank has one rank, the largest that fits the budget at all
       target modules.
    2. Ranks that are the same everywhere, from 8 on, are one rank too, as people write LoRA. Otherwise some
       target modules have one rank more, until no further one fits.
    3. A policy whose target modules are all too expensive is widened, first to all layers and roles, then to
       plain options, so that no proposal is rejected for its size.
    """
    wider = _changed_parts(policy, placement="all", layer_share=1.0, select="last_layers")
    attempts = (policy, wider, _changed_parts(wider, options=()))
    adapters = next(filter(None, (_allocate(attempt, context) for attempt in attempts)), ())
    targets = {target.name: target for target in context.targets}
    costs = (context.methods[a.method].cost(targets[a.target], a.rank, dict(a.options)) for a in adapters)
    choices = {name: values[0] for name, values in context.choices.items()} | dict(policy.choices)
    return Plan(
        adapters=adapters,
        learning_rate=policy.learning_rate,
        trainable_params=sum(costs),
        choices=tuple(choices.items()),
    )


def plan_everywhere(
    method: str, rank: int, targets: tuple[Target, ...], methods: Mapping[str, Method]
) -> Plan:
    """Plan a method at every target that it fits, whatever that costs; at one rank if they allow it."""
    scores = dict.fromkeys((target.name for target in targets), 1.0)
    context = AllocationContext(targets=targets, scores=scores, methods=methods, max_params=sys.maxsize)
    return plan_of(Policy(method=method, learning_rate=1.0, max_rank=rank or None), context)


def _changed_parts(policy: Policy, **changes: object) -> Policy:
    """Make the same changes in a policy and in all its other parts."""
    parts = tuple(replace(part, **changes) for part in policy.other_parts)  # type: ignore[arg-type]
    return replace(policy, other_parts=parts, **changes)  # type: ignore[arg-type]


def claim_at(
    target: Target, method: Method, choices: Mapping[str, OptionValue], max_rank: int | None
) -> Claim | None:
    """Claim a method's ranks up to `max_rank` at a target module; None if the method has none so low."""
    options = method.options(target, **choices)
    ranks = method.ranks(target, options)
    if method.ranked and max_rank is not None:
        ranks = ranks[: bisect_right(ranks, max_rank)]
    if not ranks:
        return None
    return Claim(target=target.name, ranks=ranks, cost=lambda rank: method.cost(target, rank, options))


def _allocate(policy: Policy, context: AllocationContext) -> tuple[Adapter, ...]:
    """Spend the budget on adapters at the target modules of a policy; empty if none fits."""
    claims: list[Claim] = []
    parts: dict[str, Policy] = {}  # a target module goes to the first part that selects it
    for part in (policy, *policy.other_parts):
        method = context.methods[part.method]
        for target in select_targets(part, context, method):
            claim = claim_at(target, method, dict(part.options), part.max_rank)
            if claim is not None and target.name not in parts:
                parts[target.name] = part
                claims.append(claim)
    ranks = allocate(claims, max_params=context.max_params)
    for part in (policy, *policy.other_parts):
        may_differ = context.methods[part.method].takes_rank_pattern
        of_part = [claim for claim in claims if parts[claim.target] is part]
        of_rest = [claim for claim in claims if parts[claim.target] is not part]
        room = context.max_params - sum(c.cost(ranks[c.target]) for c in of_rest if c.target in ranks)
        claims = [*of_rest, *at_one_rank(of_part, max_params=room, may_differ=may_differ)]
        ranks = allocate(claims, max_params=context.max_params)
    targets = {target.name: target for target in context.targets}
    adapters = []
    for name, rank in ranks.items():
        part, choices = parts[name], dict(parts[name].options)
        method = context.methods[part.method]
        adapter = Adapter(
            method=part.method,
            target=name,
            rank=rank if method.ranked else 0,
            # The scale depends on choices that the adapter's options need not hold, such as the scale rule.
            scale=method.scale(rank, **choices),
            options=tuple(sorted(method.options(targets[name], **choices).items())),
            rate_factor=rate_factor(method, context.methods[policy.method]),
        )
        adapters.append(adapter)
    return tuple(adapters)


def select_targets(policy: Policy, context: AllocationContext, method: Method) -> list[Target]:
    """Select the target modules of a policy's roles and layers, in natural order of names.

    A fused layer counts if its block has no layer of one of the roles alone: GPT-2's c_attn for `q+v`. Target
    modules outside the layers (a pooler, say) are kept whatever the share of layers. A share keeps the last
    layers, or those with the largest sum of scores over the target modules that fit. With `modules` it keeps
    single target modules instead of layers.
    """
    fitting = [
        target for target in _targets_at(policy.placement, context.targets) if method.refusal(target) is None
    ]
    if policy.select == "best_modules":
        return sorted(_best_modules(policy, fitting, context, method), key=lambda s: natural_key(s.name))
    layers = sorted({target.layer for target in fitting if target.layer is not None})
    n_kept = max(1, round(policy.layer_share * len(layers)))
    if policy.select == "best_layers":
        total = {layer: sum(context.scores[s.name] for s in fitting if s.layer == layer) for layer in layers}
        layers.sort(key=lambda layer: (total[layer], layer))
    kept = {None, *layers[-n_kept:]}
    return sorted(
        (target for target in fitting if target.layer in kept), key=lambda target: natural_key(target.name)
    )


def _best_modules(
    policy: Policy, fitting: Sequence[Target], context: AllocationContext, method: Method
) -> list[Target]:
    """Take modules in the order of their score per parameter at the lowest rank, as the budget allows."""
    costs: dict[Target, int] = {}
    for target in fitting:
        claim = claim_at(target, method, dict(policy.options), policy.max_rank)
        if claim is not None:
            costs[target] = claim.cost(claim.ranks[0])
    order = sorted(
        costs, key=lambda target: (-context.scores[target.name] / costs[target], natural_key(target.name))
    )
    kept, remaining = list[Target](), context.max_params
    for target in order:
        if costs[target] <= remaining and len(kept) < max(1, round(policy.layer_share * len(order))):
            kept.append(target)
            remaining -= costs[target]
    return kept


def _targets_at(placement: str, targets: Sequence[Target]) -> list[Target]:
    """List the targets of a placement's roles, and fused ones in layers without one of these roles."""
    if placement == "all":
        return list(targets)
    roles = {role for part in placement.split("+") for role in ROLE_GROUPS.get(part, (part,))}
    missing: dict[str | None, set[str]] = defaultdict(lambda: set(roles))
    for target in targets:
        missing[layer_name(target.name)].discard(target.role)

    def counts(target: Target) -> bool:
        fused = FUSED_ROLES.get(target.role, ())
        return target.role in roles or not missing[layer_name(target.name)].isdisjoint(fused)

    return [target for target in targets if counts(target)]

"""Listed plans: the list in a space's file becomes policies that fit model and budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import geometric_mean
from typing import cast

from autopeft.space.layout import AllocationContext, claim_at, plan_of, select_targets
from autopeft.space.sampling import is_point_of, learning_rates, policy_of_parameters
from autopeft.space.spaces import BASELINE_METHOD, Family, ListedPlan, Policy, Space
from autopeft.types import ROLE_GROUPS, Arm, Plan

_MIDDLE = 0.5  # position of the rate of a method that is not in the list


def listed_policies(space: Space, family: str, context: AllocationContext) -> tuple[tuple[Arm, Policy], ...]:
    """Turn the list of a family of tasks into arms and policies, baselines first, equal ones once.

    Each plan takes as many of its layers as fit the budget at rank 1. Challengers need a
    method, placement and options of the space.

    1. If the budget does not cover all layers of any baseline, the list for small budgets is added: there,
       method and placement decide most (research/2026-12-02-proposals.md).
    2. If no layer of any baseline fits the budget, LoRA wherever it fits is the baseline.
    3. If no challenger of the list is left, the first choices of each other method of the space take their
       place, or those of its mixes if it has nothing else.
    4. The first baseline is also tried with each further value of a choice of the user's trainer.
    """
    entries = space.listed[cast(Family, family)]
    baselines = _arms_and_policies(space, [entry for entry in entries if entry.baseline], context)
    usual = (
        ListedPlan(method=BASELINE_METHOD, rate=_MIDDLE),
        *(entry for entry in entries if entry.baseline),
    )
    fitted = [(entry, _fitted(_policy(space, entry), context)) for entry in usual]
    if not any(policy and policy.layer_share >= entry.layer_share for entry, policy in fitted):
        entries = (*entries, *space.listed["small"])
    anywhere = default_lora(space, context)
    if not baselines and plan_of(anywhere, context).adapters:
        baselines = [(Arm(kind="baseline", label="LoRA on what fits"), anywhere)]
    challengers = _arms_and_policies(
        space, [entry for entry in entries if not entry.baseline and is_point_of(space, entry)], context
    )
    if not challengers:
        methods = [name for name in space.methods if name != BASELINE_METHOD]
        for name in methods or (() if space.methods else space.mixes):
            policy = policy_of_parameters({"method": name, "rate_position": _MIDDLE}, space, context.methods)
            arm = policy.arm if policy.other_parts else _arm(policy, context, is_baseline=False)
            challengers.append((replace(arm, kind="usual"), policy))
    for arm, policy in baselines[:1]:
        for name, (_, *further) in context.choices.items():
            for value in further:
                changed = replace(policy, choices=((name, value),))
                challengers.append(
                    (replace(arm, kind="usual", label=f"{arm.label}, {name} {value}"), changed)
                )
    by_plan: dict[Plan, tuple[Arm, Policy]] = {}
    for arm, policy in [*baselines, *challengers]:
        by_plan.setdefault(plan_of(policy, context), (arm, policy))
    return tuple(by_plan.values())


def _arms_and_policies(
    space: Space, entries: Sequence[ListedPlan], context: AllocationContext
) -> list[tuple[Arm, Policy]]:
    """Make arms and policies of the entries of the list that fit the budget."""
    arms = []
    for entry in entries:
        if (policy := _fitted(_policy(space, entry), context)) is not None:
            in_part = None if policy.layer_share == 1 else entry.rate_in_some_layers
            rate = entry.rate if in_part is None else in_part
            arm = _arm(policy, context, is_baseline=entry.baseline)
            arms.append((arm, _at_rate(policy, space, rate, context)))
    return arms


def default_lora(space: Space, context: AllocationContext) -> Policy:
    """Make the policy of LoRA on all linear layers, in as many layers as the budget covers."""
    entry = ListedPlan(method=BASELINE_METHOD, baseline=True, rate=_MIDDLE)
    policy = _policy(space, entry)
    return _at_rate(_fitted(policy, context) or policy, space, entry.rate, context)


def _policy(space: Space, entry: ListedPlan) -> Policy:
    """Make the policy of an entry of the list; `_at_rate` sets its learning rate."""
    part = space.methods.get(entry.method)
    return Policy(
        method=entry.method,
        placement=entry.placement,
        layer_share=entry.layer_share,
        select=entry.select,
        options=tuple(entry.options.items()),
        max_rank=None if part is None else part.max_rank,
        learning_rate=1.0,
    )


def _fitted(policy: Policy, context: AllocationContext) -> Policy | None:
    """Keep as many layers of a policy as fit the budget at the lowest rank; None if none fits.

    It is also None for layers chosen by score if the last layers are the same ones.
    """
    method = context.methods[policy.method]
    n_layers = _n_layers(context)
    most = max(1, round(policy.layer_share * n_layers))
    for n_kept in range(most, 0, -1):
        candidate = replace(policy, layer_share=n_kept / n_layers)
        targets = select_targets(candidate, context, method)
        claims = (claim_at(target, method, dict(policy.options), policy.max_rank) for target in targets)
        if 0 < sum(claim.cost(claim.ranks[0]) for claim in claims if claim) <= context.max_params:
            last_layers = replace(candidate, select="last_layers")
            is_same = targets == select_targets(last_layers, context, method)
            return None if policy.select == "best_layers" and is_same else candidate
    return None


def _arm(policy: Policy, context: AllocationContext, *, is_baseline: bool) -> Arm:
    """Name a listed plan by its method and the layers that it adapts: `LoRA on q and v`."""
    method = context.methods[policy.method]
    if policy.select == "best_modules":
        return Arm(kind="usual", label=f"{method.label} on the best-scored modules")
    n_layers = _n_layers(context)
    is_part = policy.layer_share * n_layers < n_layers - 0.5
    where = (" by score" if policy.select == "best_layers" else " in the last layers") if is_part else ""
    adapted = {target.role for target in select_targets(policy, context, method)} - {"norm"}
    in_attention = [role for role in ROLE_GROUPS["attention"] if role in adapted]
    layers = " and ".join(in_attention) if is_baseline or len(in_attention) < 3 else "attention"
    if policy.placement == "all" and (is_baseline or not adapted <= {*ROLE_GROUPS["attention"]}):
        layers = "all linear layers"
    on_layers = f" on {layers or policy.placement}" if adapted else ""
    return Arm(kind="baseline" if is_baseline else "usual", label=f"{method.label}{on_layers}{where}")


def _n_layers(context: AllocationContext) -> int:
    """Count the layers of the model; a model whose modules are in none has one."""
    return len({target.layer for target in context.targets if target.layer is not None}) or 1


def _at_rate(policy: Policy, space: Space, position: float, context: AllocationContext) -> Policy:
    """Set the learning rate at a position, in [0, 1], of its range; a `rank_exponent` may lower it."""
    method = context.methods[policy.method]
    low, high = learning_rates(space, policy.method, context.methods)
    at_position = replace(policy, learning_rate=low * (high / low) ** position)
    part = space.methods.get(policy.method)
    if not method.rank_exponent or (part is not None and part.learning_rate is not None):
        return at_position
    ranks = [adapter.rank for adapter in plan_of(at_position, context).adapters]
    lower = at_position.learning_rate / geometric_mean(ranks or [1]) ** method.rank_exponent
    return replace(at_position, learning_rate=max(lower, low))


def head_alone(learning_rate: float) -> Plan:
    """Make the plan without adapters: it trains the task head alone, and nothing in a model without one."""
    return Plan(adapters=(), learning_rate=learning_rate, trainable_params=0)

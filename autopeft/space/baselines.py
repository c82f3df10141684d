"""The default that every search must beat: the LoRA that a careful person would use."""

from __future__ import annotations

from dataclasses import replace

from autopeft.space.layout import AllocationContext, select_sites
from autopeft.space.policies import Policy


def baseline_policies(
    context: AllocationContext, *, learning_rate: float, max_rank: int | None = None
) -> dict[str, Policy]:
    """The LoRA that a careful person would use at this budget, by name.

    All linear maps where rank 1 fits everywhere; else both all maps of as many last layers
    as fit, and q and v of as many last layers as fit; the search finds the better one.
    """
    uniform = Policy(method="lora", learning_rate=learning_rate, max_rank=max_rank)
    if _rank_one_cost(uniform, context) <= context.max_params:
        return {"LoRA on all linear maps": uniform}
    queries = "q+v" if any(site.role == "q" for site in context.sites) else "qkv"
    found = {}
    for label, placement in (("all linear maps", "all"), ("q and v", queries)):
        policy = _last_layers(replace(uniform, placement=placement), context)
        if policy is not None:
            found[f"LoRA on {label} of the last layers"] = policy
    return found or {"LoRA on what fits": uniform}


def _last_layers(policy: Policy, context: AllocationContext) -> Policy | None:
    n_layers = len({site.layer for site in context.sites if site.layer is not None})
    for kept in range(n_layers, 0, -1):
        candidate = replace(policy, layer_share=kept / n_layers)
        if 0 < _rank_one_cost(candidate, context) <= context.max_params:
            return candidate
    return None


def _rank_one_cost(policy: Policy, context: AllocationContext) -> int:
    method = context.methods[policy.method]
    return sum(method.cost(site, 1, {}) for site in select_sites(policy, context, method))

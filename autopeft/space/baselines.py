"""Plans that people write without a search: the default that a search must beat, and other usual arms."""

from __future__ import annotations

from dataclasses import replace

from autopeft.space.layout import AllocationContext, select_sites
from autopeft.space.policies import Policy

BASELINE_METHOD = "lora"


def baseline_policies(
    context: AllocationContext, *, learning_rate: float, max_rank: int | None = None
) -> dict[str, Policy]:
    """The LoRA that a careful person would use at this budget, by name.

    All linear maps where rank 1 fits everywhere; else both all maps of as many last layers
    as fit, and q and v of as many last layers as fit; the search finds the better one.
    """
    uniform = Policy(method=BASELINE_METHOD, learning_rate=learning_rate, max_rank=max_rank)
    if _rank_one_cost(uniform, context) <= context.max_params:
        return {"LoRA on all linear maps": uniform}
    queries = "q+v" if any(site.role == "q" for site in context.sites) else "qkv"
    policies = {}
    for label, placement in (("all linear maps", "all"), ("q and v", queries)):
        if policy := _last_layers(replace(uniform, placement=placement), context):
            policies[f"LoRA on {label} of the last layers"] = policy
    return policies or {"LoRA on what fits": uniform}


def usual_policies(*, learning_rate: float, max_rank: int | None = None) -> tuple[Policy, ...]:
    """Other arms that people try first, in an order chosen by hand."""
    return (
        Policy(method="ia3", learning_rate=learning_rate),
        Policy(method=BASELINE_METHOD, placement="mlp", max_rank=max_rank, learning_rate=learning_rate),
        Policy(method="bitfit", learning_rate=learning_rate),
        Policy(method="ln_tuning", learning_rate=learning_rate),
    )


def _last_layers(policy: Policy, context: AllocationContext) -> Policy | None:
    n_layers = len({site.layer for site in context.sites if site.layer is not None})
    candidates = (replace(policy, layer_share=kept / n_layers) for kept in range(n_layers, 0, -1))
    return next((p for p in candidates if 0 < _rank_one_cost(p, context) <= context.max_params), None)


def _rank_one_cost(policy: Policy, context: AllocationContext) -> int:
    method = context.methods[policy.method]
    return sum(method.cost(site, 1, {}) for site in select_sites(policy, context, method))

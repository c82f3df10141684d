"""Plans that people write without a search: the baselines that it must beat, and other usual arms."""

from __future__ import annotations

from dataclasses import replace

from autopeft.records import FUSED_ROLES, ROLE_GROUPS, Site
from autopeft.space.layout import AllocationContext, select_sites
from autopeft.space.spaces import Policy

BASELINE_METHOD = "lora"


def baseline_policies(
    context: AllocationContext, *, learning_rate: float, max_rank: int | None = None
) -> dict[str, Policy]:
    """The LoRAs that people write under this budget, by name.

    On all linear maps, and on q and v, the default of `peft` for many models: each in every layer where rank
    1 fits there, else in as many last layers as it fits. They spend the budget on higher ranks. Where
    rank 1 fits in no whole layer, all linear maps share what there is. The second is named after the maps
    that it adapts, which may be fused, and is left out where no map makes queries or none makes values.
    """
    uniform = Policy(method=BASELINE_METHOD, learning_rate=learning_rate, max_rank=max_rank)
    placements = {"all linear maps": "all"}
    adapted = {site.role for site in _sites(replace(uniform, placement="q+v"), context)}
    made = adapted.union(*(FUSED_ROLES.get(role, ()) for role in adapted))
    if made >= {"q", "v"}:
        placements[" and ".join(role for role in ROLE_GROUPS["attention"] if role in adapted)] = "q+v"
    policies: dict[str, Policy] = {}
    for label, placement in placements.items():
        policy = _last_layers(replace(uniform, placement=placement), context)
        if policy is not None and _sites(policy, context) not in [
            _sites(p, context) for p in policies.values()
        ]:
            where = "" if policy.layer_share == 1 else " of the last layers"
            policies[f"LoRA on {label}{where}"] = policy
    return policies or {"LoRA on what fits": uniform}


def usual_policies(*, learning_rate: float, max_rank: int | None = None) -> tuple[Policy, ...]:
    """Other arms that are tried first, in an order chosen by hand from those that won in earlier runs.

    RoAd stands before others since it halved the regret in replays of five sets (`reports/benchmark`), and
    HiRA since it did best in full runs on two of six sets there and in published ones on Llama-3.2-3B
    (`reports/LOG.md`, 2026-11-29).
    """
    lora, ia3, road, bitfit, norms, hira = (
        Policy(method=name, learning_rate=learning_rate)
        for name in (BASELINE_METHOD, "ia3", "road", "bitfit", "ln_tuning", "hira")
    )
    lora = replace(lora, max_rank=max_rank)
    mix = replace(lora, placement="q+v", beside=(replace(ia3, placement="mlp"), norms))
    return (ia3, road, hira, mix, norms, replace(lora, placement="mlp"), bitfit)


def scored_policy(
    context: AllocationContext, *, learning_rate: float, max_rank: int | None = None
) -> Policy | None:
    """LoRA on all linear maps of the layers with the highest score, as many as rank 1 fits.

    None where rank 1 fits in every layer or in none, or these layers are the last ones, as of the baseline.
    On a vision model whose first layer had to change, the difference was 20 points
    (`reports/benchmark`, cell digits-1).
    """
    uniform = Policy(method=BASELINE_METHOD, learning_rate=learning_rate, max_rank=max_rank)
    last = _last_layers(uniform, context)
    if last is None or last.layer_share == 1:
        return None
    scored = replace(last, layers_by="score")
    is_other = {s.name for s in _sites(scored, context)} != {s.name for s in _sites(last, context)}
    fits = _rank_one_cost(scored, context) <= context.max_params
    return scored if is_other and fits else None


def _last_layers(policy: Policy, context: AllocationContext) -> Policy | None:
    """The policy on as many last layers as rank 1 fits, all of them at most; None where it fits in none."""
    n_layers = len({site.layer for site in context.sites if site.layer is not None}) or 1
    candidates = (replace(policy, layer_share=kept / n_layers) for kept in range(n_layers, 0, -1))
    return next((p for p in candidates if 0 < _rank_one_cost(p, context) <= context.max_params), None)


def _rank_one_cost(policy: Policy, context: AllocationContext) -> int:
    method = context.methods[policy.method]
    return sum(method.cost(site, 1, {}) for site in _sites(policy, context))


def _sites(policy: Policy, context: AllocationContext) -> list[Site]:
    return select_sites(policy, context, context.methods[policy.method])

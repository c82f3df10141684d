"""The cells of the benchmark: a base model, a set and a budget each, and the plans measured in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from autopeft.space import AllocationContext, Policy, plan_of, select_targets
from autopeft.types import OptionPairs, Plan

POSITIONS = (0.15, 0.38, 0.62, 0.85)  # of the learning rate in the method's range, in the logarithm
MIDDLE = (0.5,)
HEAD_POSITIONS = (0.2, 0.5, 0.8)


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A base model, a set and a budget, with the lengths of its runs.

    `rungs` are the steps at which a plan is measured on the search split, each resumed from the one before;
    `full` the steps of a run for confirm and test. `model` is None for the demo's MiniLM-L6, else a name in
    the folder of models.
    """

    model: str | None
    data: str
    task: str = "text-classification"
    budget: str
    batch_size: int = 16
    max_length: int = 128
    rungs: tuple[int, ...] = (30, 75, 140)
    full: int = 200
    search_examples: int = 500
    confirm_examples: int = 500
    test_examples: int = 1000


SMOLLM2 = "SmolLM2-135M-Instruct.Q4_1.gguf"
_SHORT: dict[str, Any] = {"rungs": (15, 30, 42), "full": 60}

CELLS: Mapping[str, Cell] = {
    "uci-0.5": Cell(model=None, data="uci_sentiment", budget="0.5%"),
    "clinc-0.1": Cell(model=None, data="clinc_domain10", budget="0.1%"),
    "poem-0.05": Cell(model=None, data="poem_sentiment", budget="0.05%"),
    "digits-1": Cell(
        model="tiny-vit/model", data="tiny-vit/data", task="image-classification", budget="1%", batch_size=32
    ),
    "slots-0.1": Cell(model=None, data="snips_slots", task="token-classification", budget="0.1%"),
    "e2e-0.1": Cell(
        model=SMOLLM2,
        data="e2e_nlg",
        task="text-generation",
        budget="0.1%",
        batch_size=4,
        search_examples=128,
        confirm_examples=128,
        test_examples=128,
        **_SHORT,
    ),
    "med-0.2": Cell(model=None, data="med", budget="0.2%"),
    "uci-0.02": Cell(model=None, data="uci_sentiment", budget="0.02%"),
    "clinc-mpnet-0.1": Cell(
        model="all-mpnet-base-v2", data="clinc_domain10", budget="0.1%", rungs=(30, 60, 84), full=120
    ),
}


def _lora(placement: str = "all", *, options: OptionPairs = (), **choices: Any) -> Policy:
    return Policy(
        method="lora", placement=placement, options=options, max_rank=64, learning_rate=0.0, **choices
    )


def _of(method: str, placement: str = "all", **choices: Any) -> Policy:
    return Policy(method=method, placement=placement, max_rank=64, learning_rate=0.0, **choices)


def _mix(lead: Policy) -> Policy:
    return replace(lead, other_parts=(_of("ia3", "mlp"), _of("ln_tuning")))


# Arms at every position of the rate, then arms at the middle alone.
ARMS: Mapping[str, Policy] = {
    "lora/all": _lora(),
    "lora/q+v": _lora("q+v"),
    "lora/attention": _lora("attention"),
    "lora/mlp": _lora("mlp"),
    "lora/all, last half": _lora(layer_share=0.5),
    "lora/q+v, last half": _lora("q+v", layer_share=0.5),
    "lora+dora/all": _lora(options=(("dora", True),)),
    "lora+constant/all": _lora(options=(("scale_rule", "constant"),)),
    "lora/all, half by gradient": _lora(layer_share=0.5, select="best_layers"),
    "ia3/all": _of("ia3"),
    "ia3/attention": _of("ia3", "attention"),
    "ia3/mlp": _of("ia3", "mlp"),
    "ia3/all, last half": _of("ia3", layer_share=0.5),
    "bitfit/all": _of("bitfit"),
    "bitfit/all, last half": _of("bitfit", layer_share=0.5),
    "ln_tuning/all": _of("ln_tuning"),
    "lora/q+v & ia3/mlp & ln_tuning/all": _mix(_lora("q+v")),
    "lora/attention & ia3/mlp & ln_tuning/all": _mix(_lora("attention")),
}
AT_MIDDLE_TOO = ("lora/all", "lora/q+v")  # the baselines: a sweep of rates has the middle of the range
OTHERS = ("miss", "oft", "hira", "vera", "road", "lokr")


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A plan of the benchmark: its arm, and the position of its learning rate in the method's range."""

    arm: str
    position: float
    plan: Plan


def candidates(context: AllocationContext, *, head_rates: tuple[float, float]) -> Iterator[Candidate]:
    """Every plan of a cell, equal ones once, those of one position after those of the position before."""
    seen = set()
    others = {f"{name}/all": _of(name) for name in OTHERS if name in context.methods}
    policies = {arm: fitted(policy, context) for arm, policy in {**ARMS, **others}.items()}
    order = (1, 2, 0, 3)  # the middle of the range first
    for position in (*(POSITIONS[i] for i in order), *MIDDLE):
        for arm, policy in policies.items():
            wanted = arm in others or arm in AT_MIDDLE_TOO if position in MIDDLE else arm not in others
            if policy is None or not wanted:
                continue
            rate = rate_at(position, context.methods[policy.method].learning_rate_range)
            plan = plan_of(_at(policy, rate), context)
            if plan.adapters and plan not in seen:
                seen.add(plan)
                yield Candidate(arm=arm, position=position, plan=plan)
    for position in HEAD_POSITIONS if head_rates[0] < head_rates[1] else ():
        plan = Plan(adapters=(), learning_rate=rate_at(position, head_rates), trainable_params=0)
        yield Candidate(arm="head", position=position, plan=plan)


def rate_at(position: float, bounds: tuple[float, float]) -> float:
    """The learning rate at a position in a range, to four digits.

    Example:
        >>> rate_at(0.5, (1e-3, 4e-3))
        0.002
    """
    low, high = bounds
    return float(f"{low * (high / low) ** position:.4g}")


def fitted(policy: Policy, context: AllocationContext) -> Policy | None:
    """The policy; on as many of its last layers as the budget pays at the lowest rank, where that is fewer.

    None where no layer is paid, or the method of a part fits nowhere.
    """
    n_layers = len({target.layer for target in context.targets if target.layer is not None})
    most = max(1, round(policy.layer_share * n_layers))
    for kept in range(most, 0, -1):
        shares = policy.layer_share if kept == most else kept / n_layers
        candidate = replace(policy, layer_share=shares)
        cost = _least_cost(candidate, context)
        if cost is None:
            return None
        if cost <= context.max_params:
            return candidate
    return None


def _least_cost(policy: Policy, context: AllocationContext) -> int | None:
    """Parameters of one adapter of the lowest rank at every target module of the first part."""
    method = context.methods[policy.method]
    total = 0
    for target in select_targets(policy, context, method):
        options = method.options(target, **dict(policy.options))
        ranks = method.ranks(target, options)
        total += method.cost(target, ranks[0], options) if ranks else 0
    return total or None


def _at(policy: Policy, rate: float) -> Policy:
    other_parts = tuple(replace(part, learning_rate=rate) for part in policy.other_parts)
    return replace(policy, learning_rate=rate, other_parts=other_parts)

"""An encoder as target modules, and policies over it."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace

from hypothesis import strategies as st

from autopeft.plugins import Method, discover
from autopeft.space import AllocationContext, Policy, load
from autopeft.types import Plan, Target

METHODS: Mapping[str, Method] = discover("autopeft.methods")
DEFAULT = load("default", known_methods=METHODS)
WIDTHS = {"q": (8, 8), "k": (8, 8), "v": (8, 8), "o": (8, 8), "up": (8, 32), "down": (32, 8)}
N_LAYERS = 4
DORA = (("dora", True),)
CLOSED_FORMS = ("lora", "ia3", "bitfit", "ln_tuning", "oft", "miss", "hira")  # those that `recount` knows


def linear(name: str, *, layer: int | None, role: str, widths: tuple[int, int]) -> Target:
    n_in, n_out = widths
    return Target(
        name=name, layer=layer, role=role, kind="linear", in_features=n_in, out_features=n_out, has_bias=True
    )


def targets() -> tuple[Target, ...]:
    """An encoder as BERT: six linear layers and a norm in each layer, and a pooler outside the stack."""
    encoder = [linear("pooler.dense", layer=None, role="dense", widths=(8, 8))]
    for layer in range(N_LAYERS):
        encoder += [
            linear(f"h.{layer}.{role}", layer=layer, role=role, widths=WIDTHS[role]) for role in WIDTHS
        ]
        encoder.append(
            replace(linear(f"h.{layer}.norm", layer=layer, role="norm", widths=(8, 8)), kind="norm")
        )
    return tuple(encoder)


# Rank 1 of LoRA: 16 at q, k, v, o; 40 at up, down; 144 in a layer; 16 at the pooler.
RANK_ONE = N_LAYERS * 144 + 16


def context(
    max_params: int = 4 * RANK_ONE, *, scores: Mapping[str, float] | None = None
) -> AllocationContext:
    """The encoder with drawn scores, where none are given."""
    chance = random.Random(0)
    drawn = {target.name: chance.uniform(0.1, 1.0) for target in targets()}
    return AllocationContext(
        targets=targets(), scores=scores or drawn, methods=METHODS, max_params=max_params
    )


def recount(plan: Plan) -> int:
    """Trainable parameters from the shapes in the papers, without asking the methods."""
    by_name, total = {target.name: target for target in targets()}, 0
    for adapter in plan.adapters:
        target, options = by_name[adapter.target], dict(adapter.options)
        if adapter.method == "lora":
            magnitude = target.out_features if options.get("dora") else 0
            total += adapter.rank * target.in_features + adapter.rank * target.out_features + magnitude
        elif adapter.method == "ia3":
            total += target.in_features if target.role == "down" else target.out_features
        elif adapter.method == "oft":
            total += target.in_features // adapter.rank * (adapter.rank * (adapter.rank - 1) // 2)
        elif adapter.method in ("miss", "hira"):
            n_inputs = target.in_features if adapter.method == "hira" else 0
            total += adapter.rank * (n_inputs + target.out_features)
        else:
            total += target.out_features * (2 if adapter.method == "ln_tuning" else 1)
    return total


@st.composite
def policies(draw: st.DrawFn, names: tuple[str, ...] = CLOSED_FORMS) -> Policy:
    """Any policy of the default space and some outside it; half of them with parts after the first."""

    def part(name: str) -> Policy:
        chosen = {option: draw(st.sampled_from(values)) for option, values in METHODS[name].choices.items()}
        return Policy(
            method=name,
            placement=draw(st.sampled_from(["all", "attention", "mlp", "q+v", "o"])),
            layer_share=draw(st.floats(0.01, 1)),
            select=draw(st.sampled_from(["last_layers", "best_layers"])),
            options=tuple(sorted(chosen.items())),
            max_rank=draw(st.one_of(st.none(), st.integers(2, 64))),  # 2 is the smallest of OFT and MiSS
            learning_rate=1e-3,
        )

    first, *others = draw(st.lists(st.sampled_from(names), min_size=1, max_size=3, unique=True))
    return replace(part(first), other_parts=tuple(part(name) for name in others))


def prices(part: Policy, target: Target) -> dict[int, int]:
    """Rank -> parameters, as far as the policy's cap allows; a method without a rank has one."""
    method = METHODS[part.method]
    options = method.options(target, **dict(part.options))
    highest = part.max_rank or 10**6 if method.ranked else 10**6
    allowed = [rank for rank in method.ranks(target, options) if rank <= highest]
    return {rank: method.cost(target, rank, options) for rank in allowed}

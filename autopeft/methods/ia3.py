"""IA3: a trained factor on each output (or, in the feed-forward's last layer, each input) of a linear layer.

Liu et al. 2022, arXiv:2205.05638. Where we differ: every linear layer may have it, not only k, v and down.
"""

from __future__ import annotations

from collections.abc import Sequence

from peft import IA3Config, PeftConfig

from autopeft.methods._shared import only_linear_layers, pattern_of, targets_pattern
from autopeft.plugins import Method
from autopeft.types import Adapter


def _configs(adapters: Sequence[Adapter]) -> tuple[PeftConfig, ...]:
    """Build one config; an empty list of feed-forward modules means that all factors are on outputs."""
    on_inputs = [adapter.target for adapter in adapters if dict(adapter.options).get("feedforward")]
    config = IA3Config(
        target_modules=pattern_of(adapters),
        feedforward_modules=targets_pattern(on_inputs) if on_inputs else [],
    )
    return (config,)


PLUGIN = Method(
    name="ia3",
    label="IA³",
    summary="one trained factor per output of a linear layer (per input at `down`)",
    formula="m (at `down` n)",
    learning_rate_range=(6e-3, 0.15),
    learning_rate_source="best measured on MiniLM-L6 (384) 2.5e-2 to 5e-2, chance at 0.3; best published "
    "5e-3 (peft's method comparison, 3072), the largest of three",
    step_time=1.05,
    refusal=only_linear_layers,
    options=lambda target, **choices: {"feedforward": True} if target.role == "down" else {},
    cost=lambda target, rank, options: (
        target.in_features if options.get("feedforward") else target.out_features
    ),
    configs=_configs,
)

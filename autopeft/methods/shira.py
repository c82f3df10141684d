"""SHiRA: a few weights of the frozen map are trained, chosen at random.

Bhardwaj et al. 2024, arXiv:2406.13175, with a random mask. A rank stands for as many weights as LoRA of that
rank has. Their places are the same in every run.
"""

from __future__ import annotations

from peft import ShiraConfig

from autopeft.methods.parts import (
    WIDTH_EXPONENT,
    PeftMethod,
    doublings,
    one_config_per_rank,
    only_plain_linear,
)

PART = PeftMethod(
    name="shira",
    label="SHiRA",
    summary="r (n + m) weights of the map itself, at random places",
    formula="r (n + m)",
    learning_rate_range=(2e-4, 5e-3),
    learning_rate_source="3e-4 in peft's method comparison (0.510, with LoRA 0.478), raised for short runs",
    width_exponent=WIDTH_EXPONENT,
    step_time=1.06,
    refusal=only_plain_linear,
    # Up to all weights of the map.
    ranks=lambda site, options: doublings(
        site.in_features * site.out_features // (site.in_features + site.out_features)
    ),
    cost=lambda site, rank, options: rank * (site.in_features + site.out_features),
    configs=one_config_per_rank(lambda rank, sites: ShiraConfig(r=rank, random_seed=0, target_modules=sites)),
)

"""SHiRA: a few weights of the frozen map are trained, chosen at random.

Bhardwaj et al. 2024, arXiv:2406.13175, with a random mask. A rank stands for as many weights as LoRA of that
rank has. Their places are the same in every run.
"""

from __future__ import annotations

from collections.abc import Sequence

from peft import ShiraConfig

from autopeft.extension import Options
from autopeft.methods.parts import PeftMethod, doublings, one_config_per_rank, only_plain_linear
from autopeft.records import Site

_SEED = 0  # of the places of the trained weights


def _ranks(site: Site, options: Options) -> Sequence[int]:
    """Powers of two, as a config holds one rank, up to all weights of the map."""
    inputs, outputs = site.in_features, site.out_features
    return doublings(max(1, inputs * outputs // (inputs + outputs)))


PART = PeftMethod(
    name="shira",
    label="SHiRA",
    summary="r (n + m) weights of the map itself, at random places",
    formula="r (n + m)",
    learning_rate_range=(2e-4, 5e-3),
    learning_rate_source="3e-4 in peft's method comparison (0.510, with LoRA 0.478), raised for short runs",
    step_time=1.06,
    refusal=only_plain_linear,
    ranks=_ranks,
    cost=lambda site, rank, options: rank * (site.in_features + site.out_features),
    configs=one_config_per_rank(
        lambda rank, sites: ShiraConfig(r=rank, random_seed=_SEED, target_modules=sites)
    ),
)

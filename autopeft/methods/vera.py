"""VeRA: two trained vectors around random matrices that all sites share.

Kopiczko et al. 2023, arXiv:2310.11454; option `r` is the rank of the shared matrices.
"""

from __future__ import annotations

from collections.abc import Sequence

from peft import PeftConfig, VeraConfig

from autopeft.errors import SpecError
from autopeft.methods.parts import WIDTH_EXPONENT, PeftMethod, only_maps, pattern_of
from autopeft.records import Adapter


def _configs(adapters: Sequence[Adapter]) -> tuple[PeftConfig, ...]:
    """One config: under one adapter name `peft` keeps one pair of matrices, which all sites share."""
    ranks = {int(dict(adapter.options)["r"]) for adapter in adapters}
    if len(ranks) > 1:
        raise SpecError(f"VeRA shares one rank r among all sites, the plan has {sorted(ranks)}; choose one.")
    return (VeraConfig(r=ranks.pop(), target_modules=pattern_of(adapters)),)


PART = PeftMethod(
    name="vera",
    label="VeRA",
    summary="two vectors per map around shared random matrices of rank r",
    formula="r + m",
    shared=True,
    learning_rate_range=(3e-3, 5e-2),
    learning_rate_source="the paper's 1e-2 to 4e-2 on GLUE with RoBERTa, widened by hand",
    width_exponent=WIDTH_EXPONENT,
    step_time=1.07,
    choices={"r": (64, 256)},
    refusal=only_maps,
    options=lambda site, **choices: {"r": choices.get("r", 64)},
    cost=lambda site, rank, options: int(options["r"]) + site.out_features,
    configs=_configs,
)

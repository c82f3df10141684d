"""VeRA: two trained vectors around random matrices that all target modules share.

Kopiczko et al. 2023, arXiv:2310.11454; option `r` is the rank of the shared matrices.
"""

from __future__ import annotations

from collections.abc import Sequence

from peft import PeftConfig, VeraConfig

from autopeft.errors import SpecError
from autopeft.methods._shared import only_linear_layers, pattern_of
from autopeft.plugins import Method
from autopeft.types import Adapter


def _configs(adapters: Sequence[Adapter]) -> tuple[PeftConfig, ...]:
    """Build one config: for one adapter name `peft` keeps one pair of matrices, which all targets share."""
    ranks = {int(dict(adapter.options)["r"]) for adapter in adapters}
    if len(ranks) > 1:
        raise SpecError(
            f"VeRA shares one rank r among all target modules, the plan has {sorted(ranks)}; choose one."
        )
    return (VeraConfig(r=ranks.pop(), target_modules=pattern_of(adapters)),)


PLUGIN = Method(
    name="vera",
    label="VeRA",
    summary="two vectors per layer around shared random matrices of rank r",
    formula="r + m",
    shared=True,
    learning_rate_range=(4e-3, 0.15),
    learning_rate_source="best measured on MiniLM-L6 (384) 3e-2 to 8e-2; 1e-2 to 4e-2 in the paper on "
    "RoBERTa; best published 1e-3 (peft's method comparison, 3072, the only one tried)",
    step_time=1.07,
    choices={"r": (64, 256)},
    refusal=only_linear_layers,
    options=lambda target, **choices: {"r": choices.get("r", 64)},
    cost=lambda target, rank, options: int(options["r"]) + target.out_features,
    configs=_configs,
)

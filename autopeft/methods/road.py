"""RoAd: the outputs of a frozen linear layer are rotated and stretched in pairs.

Liao et al. 2024, arXiv:2409.00119; option `variant` is road_1, road_2 or road_4.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from peft import PeftConfig, RoadConfig

from autopeft.methods._shared import only_linear, pattern_of
from autopeft.plugins import Method, Options
from autopeft.types import Adapter, OptionValue, Target

_PER_OUTPUT = {"road_1": 1, "road_2": 2, "road_4": 4}  # the angle and stretch of a pair: 1, 2 or 4 of each


def _refusal(target: Target) -> str | None:
    if target.kind == "linear" and target.out_features % 2:
        return f"rotates pairs of outputs, and there are {target.out_features}"
    return only_linear(target)


def _options(target: Target, **choices: OptionValue) -> Options:
    """Set `variant` and `group_size`, within which outputs are paired: at most 64, the default of `peft`."""
    largest = max(size for size in range(2, 65, 2) if target.out_features % size == 0)
    return {"group_size": largest, "variant": choices.get("variant", "road_1")}


def _configs(adapters: Sequence[Adapter]) -> tuple[PeftConfig, ...]:
    """Write one config for each variant and group size in use."""

    def key(adapter: Adapter) -> tuple[Any, Any]:
        options = dict(adapter.options)
        return options["variant"], options["group_size"]

    return tuple(
        RoadConfig(variant=variant, group_size=size, target_modules=pattern_of(group))
        for (variant, size), group in groupby(sorted(adapters, key=key), key)
    )


PLUGIN = Method(
    name="road",
    label="RoAd",
    summary="rotation and stretching of pairs of outputs; variants of 1, 2, 4 numbers per output",
    formula="m, 2 m or 4 m",
    learning_rate_range=(4e-3, 0.15),
    learning_rate_source="best measured on MiniLM-L6 (384) 1e-2 to 6e-2; best published 1e-3 (peft's "
    "method comparison, 3072, the only one tried)",
    step_time=1.04,
    choices={"variant": tuple(_PER_OUTPUT)},
    refusal=_refusal,
    options=_options,
    cost=lambda target, rank, options: target.out_features * _PER_OUTPUT[str(options["variant"])],
    configs=_configs,
)

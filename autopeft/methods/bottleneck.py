"""Bottleneck adapters: a small trained MLP behind a frozen map, or beside a feed-forward sub-layer.

The rank is the hidden size, and the site decides which of the published adapters it is. At `o` and `down` an
adapter is serial, y + up(act(down(y))): both are the placement of Houlsby et al. 2019 (arXiv:1902.00751),
`down` alone that of Pfeiffer et al. 2021 (arXiv:2005.00247). At `up`, or `gate_up` where both maps are one,
it is parallel (He et al. 2022, arXiv:2110.04366): scale · up(act(down(x))) of the sub-layer's input x is
added to the output of the sub-layer.
Where we differ: all start as the exact identity, Pfeiffer's adapter too comes before the residual is added,
and norms are not trained along.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter

from peft import PeftConfig

from autopeft.errors import UnknownNameError
from autopeft.extension import Options
from autopeft.methods.parts import WIDTH_EXPONENT, PeftMethod, by_pattern, grouped, only_maps, pattern_of
from autopeft.methods.parts.bottleneck_tuner import ACTIVATIONS, BottleneckConfig
from autopeft.records import FIRST_ROLES, Adapter, OptionValue, Site

_SERIAL_ROLES = ("o", "down")


def _refusal(site: Site) -> str | None:
    """All but linear maps that end a sub-layer, or begin the feed-forward of a layer."""
    if site.role not in (*_SERIAL_ROLES, *FIRST_ROLES):
        return only_maps(site) or f"takes the roles {', '.join((*_SERIAL_ROLES, *FIRST_ROLES))}"
    if site.role in FIRST_ROLES and site.layer is None:
        return "beside a feed-forward it needs the last map of that, and this is in no layer"
    if not site.has_last_map:
        return "beside a feed-forward it needs the last map of that, and no one map in this layer fits"
    return only_maps(site)


def _options(site: Site, **choices: OptionValue) -> Options:
    activation = choices.get("activation", "relu")
    if activation not in ACTIVATIONS:
        raise UnknownNameError("bottleneck activation", str(activation), ACTIVATIONS)
    return {"mode": "parallel" if site.role in FIRST_ROLES else "serial", "activation": activation}


def _width(site: Site) -> int:
    """A parallel adapter lies between the inputs of a sub-layer and its outputs, which are as many."""
    return site.in_features if site.role in FIRST_ROLES else site.out_features


def _cost(site: Site, rank: int, options: Options) -> int:
    """Two maps with their biases."""
    width = _width(site)
    return 2 * width * rank + rank + width if rank else 0


def _configs(adapters: Sequence[Adapter]) -> tuple[PeftConfig, ...]:
    """One config for each mode and activation in use; a serial adapter is a residual, so its scale is 1."""
    configs = []
    groups = grouped(adapters, lambda adapter: itemgetter("mode", "activation")(dict(adapter.options)))
    for (mode, activation), group in groups:
        rank, ranks = by_pattern({adapter.site: adapter.rank for adapter in group})
        scale, scales = by_pattern(
            {adapter.site: adapter.scale if mode == "parallel" else 1.0 for adapter in group}
        )
        config = BottleneckConfig(
            target_modules=pattern_of(group),
            mode=mode,
            activation=activation,
            r=rank,
            rank_pattern=ranks,
            scale=scale,
            scale_pattern=scales,
        )
        configs.append(config)
    return tuple(configs)


PART = PeftMethod(
    name="bottleneck",
    label="bottleneck adapter",
    short="adapter",
    summary="small MLP behind a sub-layer's last map (Houlsby, Pfeiffer) or beside the feed-forward",
    formula="2 d r + r + d; d = m, or n at up",
    merges=False,
    learning_rate_range=(7e-4, 2.2e-2),
    learning_rate_source="best measured on MiniLM-L6 (384) 3.8e-3, chance at 3e-2; on SmolLM2 (576) "
    "4.3e-3 is better than 1.7e-3; 3e-5 to 3e-3 in Houlsby et al. 2019",
    width_exponent=WIDTH_EXPONENT,
    step_time=0.95,
    step_time_source="measured once, BERT of 4 layers of 256 on one CPU thread, hidden size and LoRA rank "
    "8: 0.95 at o and down, 0.85 beside the feed-forward",
    choices={"activation": ("relu", "gelu")},
    refusal=_refusal,
    options=_options,
    low_rank=False,
    ranks=lambda site, options: range(1, _width(site) + 1),  # a wider one would be no bottleneck
    cost=_cost,
    configs=_configs,
)

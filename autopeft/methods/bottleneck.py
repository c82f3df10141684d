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

from peft import PeftConfig

from autopeft.errors import UnknownNameError
from autopeft.extension import Options
from autopeft.methods.parts import PeftMethod, by_pattern, grouped, only_maps, pattern_of
from autopeft.methods.parts.bottleneck_outputs import FIRST_ROLES
from autopeft.methods.parts.bottleneck_tuner import ACTIVATIONS, BottleneckConfig
from autopeft.records import Adapter, OptionValue, Site

_SERIAL_ROLES = ("o", "down")


def _refusal(site: Site) -> str | None:
    """All but linear maps that end a sub-layer, or begin the feed-forward of a layer."""
    roles = (*_SERIAL_ROLES, *FIRST_ROLES)
    if site.role not in roles:
        return only_maps(site) or f"takes the roles {', '.join(roles)}"
    if site.role in FIRST_ROLES and site.layer is None:
        return "beside a feed-forward it needs the last map of that, and this is in no layer"
    return only_maps(site)


def _options(site: Site, **choices: OptionValue) -> Options:
    """`mode`, which follows from the site, and `activation`."""
    activation = choices.get("activation", "relu")
    if activation not in ACTIVATIONS:
        raise UnknownNameError("bottleneck activation", str(activation), ACTIVATIONS)
    return {"mode": _mode(site), "activation": activation}


def _mode(site: Site) -> str:
    return "parallel" if site.role in FIRST_ROLES else "serial"


def _width(site: Site) -> int:
    """A parallel adapter lies between the inputs of a sub-layer and its outputs, which are as many."""
    return site.in_features if _mode(site) == "parallel" else site.out_features


def _cost(site: Site, rank: int, options: Options) -> int:
    """Two maps with their biases."""
    width = _width(site)
    return 2 * width * rank + rank + width if rank else 0


def _configs(adapters: Sequence[Adapter]) -> tuple[PeftConfig, ...]:
    """One config for each mode and activation in use."""

    def mode_and_activation(adapter: Adapter) -> tuple[str, str]:
        options = dict(adapter.options)
        return str(options["mode"]), str(options["activation"])

    return tuple(_config(group, *key) for key, group in grouped(adapters, mode_and_activation))


def _config(adapters: Sequence[Adapter], mode: str, activation: str) -> BottleneckConfig:
    """Hidden sizes and scales by pattern; a serial adapter is a residual, so its scale is 1."""
    rank, rank_pattern = by_pattern({adapter.site: adapter.rank for adapter in adapters})
    scales = {adapter.site: adapter.scale if mode == "parallel" else 1.0 for adapter in adapters}
    scale, scale_pattern = by_pattern(scales)
    return BottleneckConfig(
        target_modules=pattern_of(adapters),
        mode=mode,
        activation=activation,
        r=rank,
        rank_pattern=rank_pattern,
        scale=scale,
        scale_pattern=scale_pattern,
    )


PART = PeftMethod(
    name="bottleneck",
    label="bottleneck adapter",
    short="adapter",
    summary="small MLP behind a sub-layer's last map (Houlsby, Pfeiffer) or beside the feed-forward",
    formula="2 d r + r + d; d = m, or n at up",
    merges=False,
    learning_rate_range=(3e-4, 1e-2),
    learning_rate_source="3e-5 to 3e-3 of Houlsby et al. 2019, raised for short runs: MiniLM-L6, sample "
    "sentences, 100 steps at o and down, one seed: loss 0.40 at 3e-4, 0.24 to 0.26 at 1e-3 to 1e-2, 0.47 "
    "at 3e-2",
    step_time=0.95,
    step_time_source="measured once, BERT of 4 layers of 256 on one CPU thread, hidden size and LoRA rank "
    "8: 0.95 at o and down, 0.85 beside the feed-forward",
    choices={"activation": ("relu", "gelu")},
    refusal=_refusal,
    options=_options,
    ranks=lambda site, options: range(1, _width(site) + 1),  # a wider one would be no bottleneck
    cost=_cost,
    configs=_configs,
)

"""Bottleneck adapters: a small trained MLP behind a frozen map, or beside a feed-forward sub-layer."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from peft import PeftConfig

from autopeft.errors import UnknownNameError
from autopeft.methods._bottleneck import ACTIVATIONS, FIRST_ROLES, BottleneckConfig
from autopeft.methods._plain import no_scale, no_servers
from autopeft.methods._targets import by_pattern, only_maps, sites_pattern
from autopeft.records import Adapter, OptionValue, Site

_SERIAL_ROLES = ("o", "down")


@dataclass(frozen=True)
class Bottleneck:
    """Bottleneck adapters of hidden size r; the site decides which of the published ones it is.

    At `o` and `down` an adapter is serial, y + up(act(down(y))): both are the placement of
    Houlsby et al. 2019 (arXiv:1902.00751), `down` alone that of Pfeiffer et al. 2021
    (arXiv:2005.00247). At `up`, or `gate_up` where both maps are one, it is parallel (He et al. 2022,
    arXiv:2110.04366): scale · up(act(down(x))) of the sub-layer's input x is added to the
    output of the sub-layer. Where we differ: all start as the exact identity, Pfeiffer's
    adapter too comes before the residual is added, and norms are not trained along.
    """

    name: str = "bottleneck"
    label: str = "bottleneck adapter"
    short_label: str = "adapter"
    summary: str = "small MLP behind a sub-layer's last map (Houlsby, Pfeiffer) or beside the feed-forward"
    formula: str = "2 d r + r + d; d = m, or n at up"
    ranked: bool = True
    shared: bool = False
    identity_at_start: bool = True
    merges: bool = False
    learning_rate_range: tuple[float, float] = (3e-4, 1e-2)
    learning_rate_source: str = (
        "3e-5 to 3e-3 of Houlsby et al. 2019, raised for short runs: MiniLM-L6, sample sentences, 100 steps "
        "at o and down, one seed: loss 0.40 at 3e-4, 0.24 to 0.26 at 1e-3 to 1e-2, 0.47 at 3e-2"
    )
    step_time: float = 0.95
    step_time_source: str = (
        "measured once, BERT of 4 layers of 256 on one CPU thread, hidden size and LoRA rank 8: 0.95 at o "
        "and down, 0.85 beside the feed-forward"
    )
    choices: Mapping[str, tuple[OptionValue, ...]] = field(
        default_factory=lambda: {"activation": ("relu", "gelu")}
    )
    servers = no_servers
    scale = no_scale

    def refusal(self, site: Site) -> str | None:
        """Linear maps that end a sub-layer, or begin the feed-forward of a layer."""
        if site.role not in (*_SERIAL_ROLES, *FIRST_ROLES):
            roles = ", ".join((*_SERIAL_ROLES, *FIRST_ROLES))
            return only_maps(site, "bottleneck") or f"bottleneck takes the roles {roles}"
        if site.role in FIRST_ROLES and site.layer is None:
            return "bottleneck beside a feed-forward needs its last map, and this is in no layer"
        return only_maps(site, "bottleneck")

    def options(self, site: Site, **choices: OptionValue) -> Mapping[str, OptionValue]:
        """`mode`, which follows from the site, and `activation`."""
        activation = choices.get("activation", "relu")
        if activation not in ACTIVATIONS:
            raise UnknownNameError("bottleneck activation", str(activation), ACTIVATIONS)
        return {"mode": _mode(site), "activation": activation}

    def cost(self, site: Site, rank: int, options: Mapping[str, OptionValue]) -> int:
        """Two maps with their biases."""
        width = _width(site)
        return 2 * width * rank + rank + width if rank else 0

    def ranks(self, site: Site, options: Mapping[str, OptionValue]) -> Sequence[int]:
        """Every hidden size up to the width; a wider one would be no bottleneck."""
        return range(1, _width(site) + 1)

    def configs(self, adapters: Sequence[Adapter]) -> tuple[PeftConfig, ...]:
        """One config for each mode and activation in use."""
        groups: dict[tuple[str, str], list[Adapter]] = defaultdict(list)
        for adapter in adapters:
            options = dict(adapter.options)
            groups[str(options["mode"]), str(options["activation"])].append(adapter)
        return tuple(_config(group, *kind) for kind, group in sorted(groups.items()))


def _mode(site: Site) -> str:
    return "parallel" if site.role in FIRST_ROLES else "serial"


def _width(site: Site) -> int:
    """A parallel adapter lies between the inputs of a sub-layer and its outputs, which are as many."""
    return site.in_features if _mode(site) == "parallel" else site.out_features


def _config(adapters: Sequence[Adapter], mode: str, activation: str) -> BottleneckConfig:
    """Hidden sizes and scales by pattern; a serial adapter is a residual, so its scale is 1."""
    rank, rank_pattern = by_pattern({adapter.site: adapter.rank for adapter in adapters})
    scales = {adapter.site: adapter.scale if mode == "parallel" else 1.0 for adapter in adapters}
    scale, scale_pattern = by_pattern(scales)
    return BottleneckConfig(
        target_modules=sites_pattern(adapter.site for adapter in adapters),
        mode=mode,
        activation=activation,
        r=rank,
        rank_pattern=rank_pattern,
        scale=scale,
        scale_pattern=scale_pattern,
    )


PART = Bottleneck()

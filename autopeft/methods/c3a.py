"""C3A: an update made of circulant blocks, by fast Fourier transforms."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from peft import C3AConfig, PeftConfig

from autopeft.methods._plain import no_scale, no_servers
from autopeft.methods._sources import COMPARISON
from autopeft.methods._targets import by_inner_pattern, only_plain_linear, sites_pattern
from autopeft.records import Adapter, OptionValue, Site


@dataclass(frozen=True)
class C3A:
    """C3A (Chen et al. 2024, arXiv:2407.19342).

    The block size is gcd(in, out) / rank. Where we differ from `peft`'s default: the kernel starts at zero,
    so that training starts at the base model.
    """

    name: str = "c3a"
    label: str = "C³A"
    short_label: str = "C³A"
    summary: str = "an update of circulant blocks of size b = gcd(n, m) / r"
    formula: str = "n m / b"
    ranked: bool = True
    shared: bool = False
    identity_at_start: bool = True
    merges: bool = True
    learning_rate_range: tuple[float, float] = (3e-2, 1.0)
    learning_rate_source: str = (
        "0.3 in peft's method comparison (0.488, with LoRA 0.478); MiniLM-L6, 44 steps: best of five "
        "at 0.33 (reports/LOG.md, 2026-11-25)"
    )
    step_time: float = 1.24
    step_time_source: str = COMPARISON
    choices: Mapping[str, tuple[OptionValue, ...]] = field(default_factory=dict)
    servers = no_servers
    scale = no_scale

    def refusal(self, site: Site) -> str | None:
        """`nn.Linear` with plain weights only: its tuner knows no Conv1D and no packed ones."""
        return only_plain_linear(site, "C3A")

    def options(self, site: Site, **choices: OptionValue) -> Mapping[str, OptionValue]:
        """`gcd`, of which the rank makes the block size."""
        return {"gcd": math.gcd(site.in_features, site.out_features)}

    def cost(self, site: Site, rank: int, options: Mapping[str, OptionValue]) -> int:
        """One row of each circulant block."""
        return rank * site.in_features * site.out_features // math.gcd(site.in_features, site.out_features)

    def ranks(self, site: Site, options: Mapping[str, OptionValue]) -> Sequence[int]:
        """Divisors of gcd(in, out)."""
        common = math.gcd(site.in_features, site.out_features)
        return [rank for rank in range(1, common + 1) if common % rank == 0]

    def configs(self, adapters: Sequence[Adapter]) -> tuple[PeftConfig, ...]:
        """One config."""
        blocks = {adapter.site: int(dict(adapter.options)["gcd"]) // adapter.rank for adapter in adapters}
        size, sizes = by_inner_pattern(blocks)
        targets = sites_pattern(blocks)
        return (
            C3AConfig(block_size=size, block_size_pattern=sizes, target_modules=targets, init_weights=True),
        )


PART = C3A()

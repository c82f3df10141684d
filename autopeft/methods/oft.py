"""OFT: the inputs of a frozen map are rotated in blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from peft import OFTConfig, PeftConfig

from autopeft.methods._plain import no_options, no_scale, no_servers
from autopeft.methods._sources import COMPARISON
from autopeft.methods._targets import one_config_per_rank, only_linear
from autopeft.records import Adapter, OptionValue, Site

_LARGEST_BLOCK = 128  # inputs; chosen by hand


@dataclass(frozen=True)
class Oft:
    """OFT (Qiu et al. 2023, arXiv:2306.07280) with Cayley-Neumann rotations; the rank is the block size."""

    name: str = "oft"
    label: str = "OFT"
    short_label: str = "OFT"
    summary: str = "rotation of the inputs in blocks of r"
    formula: str = "n (r - 1) / 2"
    ranked: bool = True
    shared: bool = False
    identity_at_start: bool = True
    merges: bool = True
    learning_rate_range: tuple[float, float] = (3e-4, 1e-2)
    learning_rate_source: str = (
        "1e-4 in peft's method comparison (0.491, with LoRA 0.478), raised for short runs"
    )
    step_time: float = 1.27
    step_time_source: str = COMPARISON
    choices: Mapping[str, tuple[OptionValue, ...]] = field(default_factory=dict)
    servers = no_servers
    options = no_options
    scale = no_scale

    def refusal(self, site: Site) -> str | None:
        """Linear maps whose inputs fall into blocks of two or more."""
        if site.kind == "linear" and not self.ranks(site, {}):
            return f"OFT rotates blocks of 2 to {_LARGEST_BLOCK} inputs, and none divides {site.in_features}"
        return only_linear(site, "OFT")

    def cost(self, site: Site, rank: int, options: Mapping[str, OptionValue]) -> int:
        """A skew matrix for each block."""
        return site.in_features * (rank - 1) // 2 if rank else 0

    def ranks(self, site: Site, options: Mapping[str, OptionValue]) -> Sequence[int]:
        """Powers of two that divide the inputs, as a config holds one block size; else what divides them."""
        sizes = [size for size in range(2, _LARGEST_BLOCK + 1) if site.in_features % size == 0]
        return [size for size in sizes if size & (size - 1) == 0] or sizes

    def configs(self, adapters: Sequence[Adapter]) -> tuple[PeftConfig, ...]:
        """One config for each block size in use."""
        return one_config_per_rank(
            adapters, lambda rank, sites: OFTConfig(r=0, oft_block_size=rank, target_modules=sites)
        )


PART = Oft()

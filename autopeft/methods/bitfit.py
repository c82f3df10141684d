"""BitFit: the biases of linear maps are trained, as an added vector that starts at zero."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from peft import BeftConfig, PeftConfig

from autopeft.methods._targets import sites_pattern
from autopeft.records import Adapter, OptionValue, Site


@dataclass(frozen=True)
class BitFit:
    """BitFit (Ben Zaken et al. 2022, arXiv:2106.10199), through `peft`'s BEFT tuner.

    An added bias moves exactly as the bias itself would, leaves the base model alone,
    and merges. Where we differ: norm biases are not included (BEFT takes `nn.Linear` only), nor
    those of keys: they add the same to all scores of a query, which softmax takes off again.
    """

    name: str = "bitfit"
    summary: str = "the bias of a linear map"
    ranked: bool = False
    identity_at_start: bool = True
    merges: bool = True
    learning_rate_range: tuple[float, float] = (1e-3, 3e-2)
    learning_rate_source: str = "chosen by hand around the 1e-4 to 1e-2 of the paper, raised for short runs"

    def fits(self, site: Site) -> bool:
        """Linear maps that have a bias, keys apart; a new bias could not be merged."""
        # Rotary positions make a key's bias count a little; a site does not say which positions it has.
        return site.kind == "linear" and site.has_bias and site.role != "k"

    def options(self, site: Site, **choices: OptionValue) -> Mapping[str, OptionValue]:
        """None."""
        return {}

    def cost(self, site: Site, rank: int, options: Mapping[str, OptionValue]) -> int:
        """One number per output."""
        return site.out_features

    def max_rank(self, site: Site) -> int:
        """There is no rank; one step takes it or leaves it."""
        return 1

    def configs(self, adapters: Sequence[Adapter]) -> tuple[PeftConfig, ...]:
        """One config."""
        return (BeftConfig(target_modules=sites_pattern(adapter.site for adapter in adapters)),)


PART = BitFit()

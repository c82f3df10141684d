"""Prefix tuning: trained keys and values of virtual tokens in every layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from peft import PeftConfig, PrefixTuningConfig

from autopeft.methods._plain import no_options, no_scale, no_servers
from autopeft.methods._prompts import MAX_TOKENS, only_role
from autopeft.methods._sources import COMPARISON
from autopeft.records import Adapter, OptionValue, Site


@dataclass(frozen=True)
class PrefixTuning:
    """Prefix tuning (Li & Liang 2021, arXiv:2101.00190) without their network that makes the prefix.

    The rank is the number of virtual tokens. Keys and values start at random, Normal(0, 1) as
    torch initialises embeddings.
    """

    name: str = "prefix_tuning"
    label: str = "prefix"
    short_label: str = "prefix"
    summary: str = "keys and values of r virtual tokens in every layer; they take positions from the text"
    formula: str = "2 r L k, once for the model (k: width of a layer's keys)"
    ranked: bool = True
    shared: bool = False
    identity_at_start: bool = False
    merges: bool = False
    learning_rate_range: tuple[float, float] = (1e-3, 3e-2)
    learning_rate_source: str = (
        "peft's method comparison on Llama-3.2-3B: 0.42 and 0.36 at 5e-3, 0.19 at 1e-3; the upper end is "
        "chosen by hand. The paper's 5e-5 is for the network"
    )
    step_time: float = 1.08
    step_time_source: str = f"{COMPARISON}; 200 tokens, and 0.93 with 50"
    choices: Mapping[str, tuple[OptionValue, ...]] = field(default_factory=dict)
    servers = no_servers
    options = no_options
    scale = no_scale

    def refusal(self, site: Site) -> str | None:
        """The model's keys and values only."""
        return only_role(site, "prefix", "prefix tuning")

    def cost(self, site: Site, rank: int, options: Mapping[str, OptionValue]) -> int:
        """One key and one value in each layer for each virtual token."""
        return rank * site.out_features

    def ranks(self, site: Site, options: Mapping[str, OptionValue]) -> Sequence[int]:
        """Any number of tokens up to 200."""
        return range(1, MAX_TOKENS + 1)

    def configs(self, adapters: Sequence[Adapter]) -> tuple[PeftConfig, ...]:
        """One config for each adapter; a model takes one. `peft` reads layers and heads off the model."""
        return tuple(
            PrefixTuningConfig(num_virtual_tokens=adapter.rank, num_transformer_submodules=1)
            for adapter in adapters
        )


PART = PrefixTuning()

"""P-tuning: virtual tokens whose embeddings come from a small trained network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from peft import PeftConfig, PromptEncoderConfig

from autopeft.methods._plain import no_scale, no_servers
from autopeft.methods._prompts import only_role
from autopeft.methods._sources import COMPARISON
from autopeft.records import Adapter, OptionValue, Site


@dataclass(frozen=True)
class PTuning:
    """P-tuning (Liu et al. 2021, arXiv:2103.10385) with `peft`'s network of three linear maps.

    The rank is the number of virtual tokens, option `encoder_hidden_size` the width of the network.
    All start at random, as torch initialises embeddings and linear maps. What is saved are the
    embeddings that the network gives, so that a saved adapter can be used and not trained on.
    """

    name: str = "p_tuning"
    label: str = "P-tuning"
    short_label: str = "P-tuning"
    summary: str = "r virtual tokens before the text, made by a small network; they take positions from it"
    formula: str = "r d + h (2 d + h + 2) + d, once for the model"
    ranked: bool = True
    shared: bool = False
    identity_at_start: bool = False
    merges: bool = False
    learning_rate_range: tuple[float, float] = (1e-5, 5e-3)
    learning_rate_source: str = (
        "the paper's 1e-5, and 1e-4 in peft's method comparison on Llama-3.2-3B (0.35, the only one tried); "
        "the upper end is chosen by hand"
    )
    step_time: float = 0.97
    step_time_source: str = COMPARISON
    choices: Mapping[str, tuple[OptionValue, ...]] = field(
        default_factory=lambda: {"encoder_hidden_size": (128, 32, 512)}
    )
    servers = no_servers
    scale = no_scale

    def refusal(self, site: Site) -> str | None:
        """The model's inputs only."""
        return only_role(site, "prompt", "P-tuning")

    def options(self, site: Site, **choices: OptionValue) -> Mapping[str, OptionValue]:
        """`encoder_hidden_size`, and how wide an embedding is, which `peft` cannot always guess."""
        hidden = choices.get("encoder_hidden_size", 128)
        return {"encoder_hidden_size": hidden, "token_dim": site.in_features}

    def cost(self, site: Site, rank: int, options: Mapping[str, OptionValue]) -> int:
        """What goes into the network for each token, and its maps d → h → h → d with their biases."""
        if rank == 0:
            return 0
        width, hidden = site.in_features, int(options["encoder_hidden_size"])
        network = (width * hidden + hidden) + (hidden * hidden + hidden) + (hidden * width + width)
        return rank * width + network

    def ranks(self, site: Site, options: Mapping[str, OptionValue]) -> Sequence[int]:
        """Steps of about two, chosen by hand: the network is most of the cost."""
        return (1, 2, 5, 10, 20, 50, 100, 200)

    def configs(self, adapters: Sequence[Adapter]) -> tuple[PeftConfig, ...]:
        """One config for each adapter; a model takes one. What is told beside: see prompt tuning."""
        return tuple(
            PromptEncoderConfig(
                num_virtual_tokens=adapter.rank,
                token_dim=int(dict(adapter.options)["token_dim"]),
                num_transformer_submodules=1,
                num_layers=1,
                num_attention_heads=1,
                encoder_hidden_size=int(dict(adapter.options)["encoder_hidden_size"]),
            )
            for adapter in adapters
        )


PART = PTuning()

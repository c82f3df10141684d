"""P-tuning: virtual tokens whose embeddings come from a small trained network.

Liu et al. 2021, arXiv:2103.10385, with `peft`'s network of three linear maps. The rank is the number of
virtual tokens, option `encoder_hidden_size` the width of the network. All start at random, as torch
initialises embeddings and linear maps. What is saved are the embeddings that the network gives, so that a
saved adapter can be used and not trained on.
"""

from __future__ import annotations

from collections.abc import Sequence

from peft import PeftConfig, PromptEncoderConfig

from autopeft.extension import Options
from autopeft.methods.parts import PeftMethod
from autopeft.methods.parts.virtual_tokens import only_model_site, prompt_settings
from autopeft.records import Adapter, Site


def _cost(site: Site, rank: int, options: Options) -> int:
    """What goes into the network for each token, and its maps d → h → h → d with their biases."""
    width, hidden = site.in_features, int(options["encoder_hidden_size"])
    network = (width * hidden + hidden) + (hidden * hidden + hidden) + (hidden * width + width)
    return rank * width + network if rank else 0


def _configs(adapters: Sequence[Adapter]) -> tuple[PeftConfig, ...]:
    return tuple(
        PromptEncoderConfig(
            encoder_hidden_size=dict(adapter.options)["encoder_hidden_size"], **prompt_settings(adapter)
        )
        for adapter in adapters
    )


PART = PeftMethod(
    name="p_tuning",
    label="P-tuning",
    summary="r virtual tokens before the text, made by a small network; they take positions from it",
    formula="r d + h (2 d + h + 2) + d, once for the model",
    identity_at_start=False,
    merges=False,
    learning_rate_range=(1e-4, 4e-3),
    learning_rate_source="1e-4, the only one tried in peft's method comparison (3072, 0.37), is the lower "
    "end: 2.2e-4 trains little in 24 steps on SmolLM2 (576); the upper end is chosen by hand",
    step_time=0.97,
    choices={"encoder_hidden_size": (128, 32, 512)},
    refusal=only_model_site("prompt", "inputs"),
    options=lambda site, **choices: {
        "encoder_hidden_size": choices.get("encoder_hidden_size", 128),
        "token_dim": site.in_features,
    },
    # Steps of about two, chosen by hand: the network is most of the cost.
    low_rank=False,
    ranks=lambda site, options: (1, 2, 5, 10, 20, 50, 100, 200),
    cost=_cost,
    configs=_configs,
)

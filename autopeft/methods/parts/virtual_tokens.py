"""What the methods share that train virtual tokens of the model as a whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from autopeft.extension import Options
from autopeft.records import Adapter, Site


def only_model_site(role: str, name: str) -> Callable[[Site], str | None]:
    """A refusal of all sites but the whole model's site of this role; the message has the site's name."""

    def refusal(site: Site) -> str | None:
        fits = site.kind == "model" and site.role == role
        return None if fits else f"takes the model as a whole, at the site {name!r}"

    return refusal


def any_length(site: Site, options: Options) -> range:
    """1 to 200 virtual tokens, the longest prefix in peft's method comparison; Lester et al. stop at 150."""
    return range(1, 201)


def prompt_settings(adapter: Adapter) -> dict[str, Any]:
    """What the `peft` configs of prompt tuning and P-tuning both hold.

    One submodule also for an encoder with a decoder: the prompt stands before the encoder's inputs, and
    `peft` 0.21.2 would give the decoder another that it never uses. The numbers of layers and attention
    heads do not matter to a prompt; `peft` asks for them, and for the width of an embedding (`token_dim`),
    where it cannot guess them.
    """
    return {
        "num_virtual_tokens": adapter.rank,
        "token_dim": int(dict(adapter.options)["token_dim"]),
        "num_transformer_submodules": 1,
        "num_layers": 1,
        "num_attention_heads": 1,
    }

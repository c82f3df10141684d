"""Prompt tuning: trained embeddings of virtual tokens before those of the text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from peft import PeftConfig, PromptTuningConfig

from autopeft.methods._plain import no_scale, no_servers
from autopeft.methods._prompts import MAX_TOKENS, only_role
from autopeft.methods._sources import COMPARISON
from autopeft.records import Adapter, OptionValue, Site

_INITS = {"vocabulary": "SAMPLE_VOCAB", "random": "RANDOM"}


@dataclass(frozen=True)
class PromptTuning:
    """Prompt tuning (Lester et al. 2021, arXiv:2104.08691); the rank is the number of virtual tokens.

    They start as the embeddings of words drawn by the seed, or with option `init` at random
    (Normal(0, 1), some ten times as long as those of words).
    """

    name: str = "prompt_tuning"
    label: str = "prompt"
    short_label: str = "prompt"
    summary: str = "r virtual tokens before the text; they take positions from it"
    formula: str = "r d, once for the model"
    ranked: bool = True
    shared: bool = False
    identity_at_start: bool = False
    merges: bool = False
    learning_rate_range: tuple[float, float] = (1e-3, 3e-1)
    learning_rate_source: str = (
        "peft's method comparison on Llama-3.2-3B: 0.06 at 1e-4, 0.23 at 1e-3, 0.34 there when it starts "
        "from words; the paper's 0.3, with Adafactor, is the upper end"
    )
    step_time: float = 1.52
    step_time_source: str = COMPARISON
    choices: Mapping[str, tuple[OptionValue, ...]] = field(default_factory=lambda: {"init": tuple(_INITS)})
    servers = no_servers
    scale = no_scale

    def refusal(self, site: Site) -> str | None:
        """The model's inputs only."""
        return only_role(site, "prompt", "prompt tuning")

    def options(self, site: Site, **choices: OptionValue) -> Mapping[str, OptionValue]:
        """`init`, and how wide an embedding is, which `peft` cannot always guess."""
        return {"init": choices.get("init", "vocabulary"), "token_dim": site.in_features}

    def cost(self, site: Site, rank: int, options: Mapping[str, OptionValue]) -> int:
        """One embedding for each virtual token."""
        return rank * site.in_features

    def ranks(self, site: Site, options: Mapping[str, OptionValue]) -> Sequence[int]:
        """Any number of tokens up to 200."""
        return range(1, MAX_TOKENS + 1)

    def configs(self, adapters: Sequence[Adapter]) -> tuple[PeftConfig, ...]:
        """One config for each adapter; a model takes one.

        One submodule also for an encoder with a decoder: the prompt stands before the encoder's inputs,
        and `peft` 0.21.2 would give the decoder another that it never uses. `num_layers` and
        `num_attention_heads` have no say in a prompt, and `peft` wants them told where it cannot guess.
        """
        return tuple(
            PromptTuningConfig(
                num_virtual_tokens=adapter.rank,
                token_dim=int(dict(adapter.options)["token_dim"]),
                num_transformer_submodules=1,
                num_layers=1,
                num_attention_heads=1,
                prompt_tuning_init=_INITS[str(dict(adapter.options)["init"])],
            )
            for adapter in adapters
        )


PART = PromptTuning()

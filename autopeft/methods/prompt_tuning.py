"""Prompt tuning: trained embeddings of virtual tokens before those of the text.

Lester et al. 2021, arXiv:2104.08691; the rank is the number of virtual tokens. They start as the embeddings
of words drawn by the seed, or with option `init` at random (Normal(0, 1), some ten times as long as those of
words).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from peft import PeftConfig, PromptTuningConfig

from autopeft.errors import SpecError
from autopeft.extension import Options
from autopeft.methods.parts import PeftMethod
from autopeft.methods.parts.virtual_tokens import any_length, only_model_site, prompt_settings
from autopeft.records import Adapter

_INITS = {"vocabulary": "SAMPLE_VOCAB", "random": "RANDOM"}


def _configs(adapters: Sequence[Adapter]) -> tuple[PeftConfig, ...]:
    return tuple(
        PromptTuningConfig(
            prompt_tuning_init=_INITS[str(dict(adapter.options)["init"])], **prompt_settings(adapter)
        )
        for adapter in adapters
    )


def _read_choices(config: Any) -> Options:
    init = getattr(config.prompt_tuning_init, "value", config.prompt_tuning_init)
    names = {value: name for name, value in _INITS.items()}
    if init not in names:
        known = " or ".join(sorted(names))
        raise SpecError(f"prompt_tuning_init is {init!r}, which a plan cannot say; it can say {known}.")
    return {"init": names[init]}


PART = PeftMethod(
    name="prompt_tuning",
    label="prompt",
    summary="r virtual tokens before the text; they take positions from it",
    formula="r d, once for the model",
    identity_at_start=False,
    merges=False,
    learning_rate_range=(8e-4, 3.2e-2),
    learning_rate_source="best published 1e-3, the largest of two (peft's method comparison, 3072: 0.36 from "
    "words, 0.25 at random, 0.05 at 1e-4), so that the range goes up from there, by hand; the paper's 0.3 is "
    "for T5 with Adafactor",
    step_time=1.52,
    choices={"init": tuple(_INITS)},
    refusal=only_model_site("prompt", "inputs"),
    options=lambda site, init="vocabulary", **choices: {"init": init, "token_dim": site.in_features},
    low_rank=False,
    ranks=any_length,
    cost=lambda site, rank, options: rank * site.in_features,
    configs=_configs,
    readable_type="PROMPT_TUNING",
    read_choices=_read_choices,
)

"""Prefix tuning: trained keys and values of virtual tokens in every layer.

Li & Liang 2021, arXiv:2101.00190, without their network that makes the prefix. The rank is the number of
virtual tokens. Keys and values start at random, Normal(0, 1) as torch initialises embeddings.
"""

from __future__ import annotations

from peft import PrefixTuningConfig

from autopeft.methods.parts import COMPARISON, PeftMethod
from autopeft.methods.parts.virtual_tokens import any_length, only_model_site

PART = PeftMethod(
    name="prefix_tuning",
    label="prefix",
    summary="keys and values of r virtual tokens in every layer; they take positions from the text",
    formula="2 r L k, once for the model (k: width of a layer's keys)",
    identity_at_start=False,
    merges=False,
    learning_rate_range=(1.5e-3, 6e-2),
    learning_rate_source="best published 5e-3 (peft's method comparison, 3072: 0.36 to 0.41, and 0.17 at "
    "1e-3); the upper end is chosen by hand for short runs, as 5.5e-3 trains little in 24 steps on "
    "SmolLM2 (576). The paper's 5e-5 is for the network",
    step_time=1.08,
    step_time_source=f"{COMPARISON}; 200 tokens, and 0.93 with 50",
    refusal=only_model_site("prefix", "cache"),
    low_rank=False,
    ranks=any_length,
    cost=lambda site, rank, options: rank * site.out_features,  # a key and a value in each layer
    # `peft` reads the numbers of layers and heads off the model.
    configs=lambda adapters: tuple(
        PrefixTuningConfig(num_virtual_tokens=adapter.rank, num_transformer_submodules=1)
        for adapter in adapters
    ),
    readable_type="PREFIX_TUNING",
)

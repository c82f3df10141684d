"""FourierFT: a few frequencies of the update's spectrum are trained.

Gao et al. 2024, arXiv:2405.03003; the rank is the number of frequencies.
Where we differ from `peft`'s default: the spectrum starts at zero, so that training starts at the base model
(at random, untrained logits move by 0.5 on toys).
"""

from __future__ import annotations

from collections.abc import Sequence

from peft import FourierFTConfig, PeftConfig

from autopeft.methods._shared import by_inner_pattern, only_linear_layers, targets_pattern
from autopeft.plugins import Method, Options
from autopeft.types import Adapter, Target


def _ranks(target: Target, options: Options) -> Sequence[int]:
    """Up to 64 steps of 50 frequencies (fewer in a small layer); the paper uses 1,000."""
    step = max(1, min(50, target.in_features * target.out_features // 64))
    return range(step, 64 * step + 1, step)


def _configs(adapters: Sequence[Adapter]) -> tuple[PeftConfig, ...]:
    frequencies = {adapter.target: adapter.rank for adapter in adapters}
    n_frequency, pattern = by_inner_pattern(frequencies)
    config = FourierFTConfig(
        n_frequency=n_frequency,
        n_frequency_pattern=pattern,
        target_modules=targets_pattern(frequencies),
        init_weights=True,
        scaling=150.0,  # peft's default, the paper's for RoBERTa
    )
    return (config,)


PLUGIN = Method(
    name="fourierft",
    label="FourierFT",
    summary="r frequencies of the update's spectrum, at random places",
    formula="r",
    learning_rate_range=(0.1, 3.0),
    learning_rate_source="best measured on MiniLM-L6 (384) 0.6, the largest of five; the paper's 5e-2 to "
    "1e-1 on RoBERTa; 2e-4 in this scale trains nothing in peft's method comparison (3072)",
    width_exponent=0.0,
    step_time=1.80,
    refusal=only_linear_layers,
    ranks=_ranks,
    cost=lambda target, rank, options: rank,
    takes_rank_pattern=True,
    configs=_configs,
)

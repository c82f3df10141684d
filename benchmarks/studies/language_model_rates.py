"""Compare rules for LoRA's learning rate on a published sweep of language models.

    python benchmarks/studies/language_model_rates.py

`language_model_rates.csv` has 382 runs on 24 models of 1 to 550 billion parameters: tulu3, batches of 128
rows, 780 steps, LoRA on all linear layers, alpha 32. It is the table `recipes/chat_sl/results/sft_sweep.md`
of thinking-machines-lab/tinker-cookbook at commit 9dfcc3a2 (Apache-2.0). The regret of a rate is its test
loss, in nats per token, above that of the best rate that was run for the model and rank. Between two rates it
is interpolated linearly in the logarithm, so that rules off the grid look a little worse than they are.
"""

from __future__ import annotations

import csv
import math
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from statistics import fmean

import numpy as np

from autopeft.plugins import Method, discover

ALPHA = 32
POSITION = 0.38  # of the first listed LoRA, in its range
HIDDEN_SIZE = {
    "Qwen/Qwen3-235B-A22B-Instruct-2507": 4096,
    "Qwen/Qwen3-30B-A3B": 2048,
    "Qwen/Qwen3-30B-A3B-Instruct-2507": 2048,
    "Qwen/Qwen3-4B-Instruct-2507": 2560,
    "Qwen/Qwen3-8B": 4096,
    "Qwen/Qwen3-VL-235B-A22B-Instruct": 4096,
    "Qwen/Qwen3-VL-30B-A3B-Instruct": 2048,
    "Qwen/Qwen3.5-27B": 5120,
    "Qwen/Qwen3.5-35B-A3B": 2048,
    "Qwen/Qwen3.5-35B-A3B-Base": 2048,
    "Qwen/Qwen3.5-397B-A17B": 4096,
    "Qwen/Qwen3.5-4B": 2560,
    "Qwen/Qwen3.5-9B-Base": 4096,
    "Qwen/Qwen3.6-27B": 5120,
    "deepseek-ai/DeepSeek-V3.1-Base": 7168,
    "meta-llama/Llama-3.1-8B": 4096,
    "meta-llama/Llama-3.1-8B-Instruct": 4096,
    "meta-llama/Llama-3.2-1B": 2048,
    "meta-llama/Llama-3.3-70B-Instruct": 8192,
    "moonshotai/Kimi-K2-Thinking": 7168,
    "moonshotai/Kimi-K2.5": 7168,
    "nvidia/NVIDIA-Nemotron-3-Super-120B-A12B-BF16": 4096,
    "nvidia/NVIDIA-Nemotron-3-Ultra-550B-A55B-BF16": 8192,
    "openai/gpt-oss-120b": 2880,
}

Rule = Callable[[str, int], float]  # model, rank -> learning rate at alpha 32


def losses() -> dict[tuple[str, int], tuple[np.ndarray, np.ndarray]]:
    """Return the log rates and mean test losses by model and rank, where at least three rates were run."""
    runs: dict[tuple[str, int], dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    with Path(__file__).with_suffix(".csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            runs[row["model"], int(row["rank"])][float(row["learning_rate"])].append(float(row["test_nll"]))
    return {
        cell: (np.log(sorted(by_rate)), np.array([fmean(by_rate[rate]) for rate in sorted(by_rate)]))
        for cell, by_rate in runs.items()
        if len(by_rate) >= 3
    }


def regrets(rule: Rule) -> dict[tuple[str, int], float]:
    """Return the regret of a rule by model and rank, in nats per token."""
    return {
        (model, rank): float(np.interp(math.log(rule(model, rank)), rates, values) - values.min())
        for (model, rank), (rates, values) in losses().items()
    }


def mean_over_models(found: dict[tuple[str, int], float]) -> float:
    """Return the mean over models of the mean over ranks."""
    models = {model for model, _ in found}
    return fmean(fmean(value for (name, _), value in found.items() if name == model) for model in models)


def rule_of(lora: Method, factor: float = 1.0) -> Rule:
    """Return the rate of a listed LoRA, for the scale of the sweep: equal rate × scale trains equally."""

    def rule(model: str, rank: int) -> float:
        low, high = lora.at_width(HIDDEN_SIZE[model]).learning_rate_range
        return factor * low * (high / low) ** POSITION * lora.scale(rank) * rank / ALPHA

    return rule


def main() -> None:
    """Print the regret of each rule, by rank."""
    lora = discover("autopeft.methods")["lora"]
    rules: dict[str, Rule] = {
        "autopeft": rule_of(lora),
        "half of it": rule_of(lora, 0.5),
        "twice as much": rule_of(lora, 2.0),
        "2e-4 at alpha = r": lambda model, rank: 2e-4 * rank / ALPHA,
        "2e-4 at alpha 32": lambda model, rank: 2e-4,
        "3e-4 at alpha 32": lambda model, rank: 3e-4,
    }
    ranks = sorted({rank for _, rank in losses()})
    print(f"{'regret, 1e-4 nats':20}{'mean':>6}{'worst':>7}", *(f"{f'r {rank}':>6}" for rank in ranks))
    for name, rule in rules.items():
        found = regrets(rule)
        by_rank = [fmean(value for (_, each), value in found.items() if each == rank) for rank in ranks]
        numbers = "".join(f"{1e4 * value:7.0f}" for value in by_rank)
        print(f"{name:20}{1e4 * mean_over_models(found):6.0f}{1e4 * max(found.values()):7.0f}{numbers}")


if __name__ == "__main__":
    main()

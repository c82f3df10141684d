"""Published peak memory of 5,000-step runs, and what a step replayed without weights gives.

    python reports/studies/memory_replay.py HISTORY.jsonl [--tokens T] [--out FILE.csv]

HISTORY.jsonl holds runs of peft's method comparison (MetaMathQA, Llama-3.2-3B in bfloat16, 4 rows a step,
AdamW, no checkpointing), one a line: `experiment`, `peft_config`, `max_memory_bytes`, `packages`. A
step is replayed per config, with the loop of that benchmark: adapters as `peft` makes them, no autocast,
logits of all words, the model's outputs kept until the end of the step. T, the tokens of the longest step, is
the one fitted number, 733; no row has more than 768. The last line gives the T that each half of the configs
would choose.

A config counts once: the median over its runs under the newest peft that ran it, as peft's code changes (OFT
fell from 29 to 22 GB). That peft (0.15 to 0.19) is not the one here; keys that are unknown here are left out.
"""

from __future__ import annotations

import argparse
import csv
import inspect
import json
import time
import warnings
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import torch
import transformers
from peft import LoraConfig, PeftConfig, get_peft_model
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

from autopeft.errors import SpecError, first_line_of
from autopeft.estimate import StandInValues, StepMemory, TrainingStep, replay
from autopeft.extension import Batch

LLAMA_3B: dict[str, Any] = {
    "hidden_size": 3072,
    "num_hidden_layers": 28,
    "num_attention_heads": 24,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "intermediate_size": 8192,
    "vocab_size": 128256,
    "tie_word_embeddings": True,
    "max_position_embeddings": 131072,
}
N_ROWS, MAX_TOKENS = 4, 768
NEAR = 0.05
LORA_FA = "lora-fa"  # an optimizer that trains B alone


class Script:
    """The loss as the benchmark's script takes it: logits, keys and values live as long as the loss."""

    def __call__(self, model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        """The model's own loss."""
        self.outputs = model(**batch)
        loss: torch.Tensor = self.outputs.loss
        return loss


def configs_of(path: Path) -> Iterator[tuple[str, dict[str, Any], int]]:
    """Experiment, one of its runs, and the median of their peaks."""
    runs = defaultdict(list)
    for line in path.read_text(encoding="utf-8").splitlines():
        run = json.loads(line)
        if run["max_memory_bytes"] and run["max_tokens"] == MAX_TOKENS and not run["gradient_checkpointing"]:
            runs[run["experiment"]].append(run)
    for experiment, repeats in sorted(runs.items()):
        newest = max(run["packages"]["peft-version"] for run in repeats)
        same = [run for run in repeats if run["packages"]["peft-version"] == newest]
        yield experiment, same[0], int(median(run["max_memory_bytes"] for run in same))


def config_of(saved: dict[str, Any]) -> PeftConfig:
    """A config as far as this peft knows it; raises SpecError for a type that is gone."""
    kind: Any = PEFT_TYPE_TO_CONFIG_MAPPING.get(saved["peft_type"])
    if kind is None:
        raise SpecError(f"this peft has no {saved['peft_type']}")
    known = inspect.signature(kind).parameters
    config: PeftConfig = kind(**{k: v for k, v in saved.items() if k in known and k != "peft_type"})
    if isinstance(config, LoraConfig) and config.init_lora_weights != "mica":
        config.init_lora_weights = True  # first values take no memory
    return config


def model_of(run: dict[str, Any]) -> torch.nn.Module:
    """Llama-3.2-3B without weights, with the adapters of a run; raises SpecError where they read values."""
    config = config_of(run["peft_config"]) if run["peft_config"] else None
    with torch.device("meta"), StandInValues():
        module = transformers.AutoModelForCausalLM.from_config(
            transformers.LlamaConfig(**LLAMA_3B), dtype=torch.bfloat16
        )
        if config is None:
            return module
        config.task_type = "CAUSAL_LM"
        try:
            model = get_peft_model(module, config)
        except (NotImplementedError, RuntimeError) as error:
            raise SpecError(f"attaching reads values: {first_line_of(error)}") from error
    if run["optimizer"] == LORA_FA:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(parameter.requires_grad and "lora_A" not in name)
    return model


def memory_of(run: dict[str, Any], n_tokens: int) -> StepMemory:
    """One replayed step of a run."""
    ids = torch.zeros(N_ROWS, n_tokens, dtype=torch.long)
    batch = {"input_ids": ids, "attention_mask": ids, "labels": ids}
    return replay(model_of(run), TrainingStep(micro_batches=[batch], loss=Script(), foreach=True))


def lasting(memory: StepMemory) -> int:
    """What does not grow with T."""
    return memory.weights_bytes + memory.trained_bytes + memory.gradient_bytes + memory.optimizer_bytes


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("history", type=Path)
    parser.add_argument("--tokens", type=int, default=733)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    rows: list[tuple[str, int, int, float, float]] = []
    fitting: list[float] = []
    print("| config | published, GB | replayed, GB | error | seconds |\n|---|---|---|---|---|")
    for experiment, run, published in configs_of(given.history):
        started = time.process_time()
        name = experiment.replace("/llama-3.2-3B", "")
        words = f"| {name} | {published / 1e9:.2f} |"
        try:
            memory = memory_of(run, given.tokens)
        except SpecError as error:
            print(f"{words} {first_line_of(error)[:70]} … | | |", flush=True)
            continue
        peak, seconds = memory.peak_bytes, time.process_time() - started
        rows.append((name, published, peak, peak / published - 1, seconds))
        fitting.append(given.tokens * (published - lasting(memory)) / (peak - lasting(memory)))
        print(f"{words} {peak / 1e9:.2f} | {peak / published - 1:+.1%} | {seconds:.0f} |", flush=True)
    errors = sorted(abs(row[3]) for row in rows)
    n_near = sum(error <= NEAR for error in errors)
    print(f"\n{n_near} of {len(errors)} within {NEAR:.0%}, median {median(errors):.2%}.")
    print(
        f"T by every second config: {median(fitting[::2]):.0f}; by the others: {median(fitting[1::2]):.0f}."
    )
    if given.out is not None:
        with given.out.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("config", "published_bytes", "replayed_bytes", "error", "cpu_seconds"))
            writer.writerows((*row[:3], f"{row[3]:.4f}", f"{row[4]:.1f}") for row in rows)


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    warnings.simplefilter("ignore")
    main()

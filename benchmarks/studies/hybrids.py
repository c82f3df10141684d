"""Adapt one component of two tiny hybrids, pretrained here, at the same budget.

    OMP_NUM_THREADS=1 python benchmarks/studies/hybrids.py OUT.csv --data FOLDER --models FOLDER

The data has train.txt, validation.txt and test.txt, such as tiny Shakespeare (public domain). Models of a
million weights learn its characters: Qwen3.5, a sequential hybrid with gated delta nets, and Falcon-H1, a
parallel one with Mamba-2. Then LoRA learns the same text with the case of its letters swapped, in one
component or in all of them, each at the highest rank that the budget allows. The rate of a component is the
best of two by the validation loss of seed 0. Models that are there, and rows that OUT.csv has, are not made
again.
"""

from __future__ import annotations

import argparse
import csv
import math
from pathlib import Path

import pandas as pd
import peft
import torch
import transformers
from torch import Tensor, nn

from autopeft import model
from autopeft.plugins import discover
from autopeft.train import WARMUP_SHARE
from autopeft.types import Component, ModelSpec

WIDTH, LENGTH, ROWS = 128, 64, 8  # hidden size; characters of a row; rows of a step
PRETRAIN_STEPS, PRETRAIN_RATE = 1000, 3e-3
STEPS, BUDGET = 60, 60_000  # of an adaptation
POSITION = 0.38  # of the first listed LoRA, in its range of rates
FACTORS = (1.0, 3.0)  # of that rate, as runs are short
EVALUATED = 128  # rows
N_SEEDS = 3
COMPONENTS: dict[str, tuple[Component, ...]] = {
    "attention": ("attention",),
    "mlp": ("mlp",),
    "recurrent": ("recurrent",),
    "attention and mlp": ("attention", "mlp"),
    "all": ("attention", "mlp", "recurrent"),
}
SIZES = {"hidden_size": WIDTH, "intermediate_size": 384, "num_hidden_layers": 4, "num_attention_heads": 4}
SIZES |= {"num_key_value_heads": 4, "max_position_embeddings": 2 * LENGTH}
SIZES |= dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"))
DELTA = {"linear_num_key_heads": 4, "linear_num_value_heads": 4, "linear_key_head_dim": 32}
DELTA |= {
    "linear_value_head_dim": 32,
    "head_dim": 32,
    "layer_types": ["linear_attention", "full_attention"] * 2,
}
MAMBA = {"mamba_d_ssm": 128, "mamba_n_heads": 4, "mamba_d_head": 32, "mamba_d_state": 16}
MAMBA |= {"mamba_n_groups": 1, "mamba_chunk_size": 64}
MODELS = {
    "qwen3_5": lambda words: transformers.Qwen3_5TextConfig(vocab_size=words, **SIZES, **DELTA),
    "falcon_h1": lambda words: transformers.FalconH1Config(vocab_size=words, **SIZES, **MAMBA),
}
FIELDS = "model components seed factor rate rank params steps before validation test".split()


def batch(text: Tensor, generator: torch.Generator) -> Tensor:
    """Draw rows (ROWS, LENGTH) of a text."""
    starts = torch.randint(len(text) - LENGTH, (ROWS,), generator=generator)
    return torch.stack([text[start : start + LENGTH] for start in starts])


def train(module: nn.Module, text: Tensor, *, rate: float, n_steps: int, seed: int) -> None:
    """Train what requires gradients, with warm-up and linear decay."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], rate, weight_decay=0)
    n_warmup = max(1, round(WARMUP_SHARE * n_steps))
    schedule = transformers.get_linear_schedule_with_warmup(optimizer, n_warmup, n_steps)
    for step in range(n_steps):
        rows = batch(text, generator)
        loss = module(input_ids=rows, labels=rows).loss
        loss.backward()
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 100 == 0:
            print(f"  step {step}: {loss.item():.3f}", flush=True)


@torch.no_grad()
def loss_of(module: nn.Module, text: Tensor) -> float:
    """Return the loss per character of the first rows of a text."""
    rows = text[: EVALUATED * LENGTH].view(-1, ROWS, LENGTH)
    return sum(module(input_ids=each, labels=each).loss.item() for each in rows) / len(rows)


def adapted(folder: Path, components: tuple[Component, ...], seed: int) -> tuple[peft.PeftModel, int]:
    """Attach LoRA to the components of a pretrained model; returns it with the rank."""
    spec = ModelSpec(id=str(folder), components=components)
    chosen = model.load_skeleton(spec, auto_class="AutoModelForCausalLM").chosen
    lora = discover("autopeft.methods")["lora"]
    targets = [target for target in chosen if lora.refusal(target) is None]
    rank = BUDGET // sum(lora.cost(target, 1, {}) for target in targets)
    torch.manual_seed(seed)
    config = peft.LoraConfig(
        r=rank,
        lora_alpha=4 * math.sqrt(rank),
        target_modules=[target.name for target in targets],
        task_type="CAUSAL_LM",
    )
    return peft.get_peft_model(transformers.AutoModelForCausalLM.from_pretrained(folder), config), rank


def print_table(out: Path) -> None:
    """Print the test losses of the three seeds at each component's rate, the mean first."""
    rows = pd.read_csv(out)
    best = rows[rows.seed == 0].sort_values("validation").drop_duplicates(["model", "components"])
    kept = rows.merge(best[["model", "components", "factor"]])
    for (name, label), group in kept.groupby(["model", "components"], sort=False):
        losses = " ".join(f"{value:.3f}" for value in group.test)
        first = group.iloc[0]
        facts = f"r {first['rank']}, {first.params:,} parameters, rate {first.rate:.2g}"
        print(f"{name:10} {label:18} {group.test.mean():.3f} ({losses}); {facts}; before {first.before:.3f}")


def main() -> None:
    """Pretrain the models and write a row for each adaptation."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--models", type=Path, required=True)
    arguments = parser.parse_args()
    texts = {s: (arguments.data / f"{s}.txt").read_text() for s in ("train", "validation", "test")}
    words = {character: i for i, character in enumerate(sorted({*"".join(texts.values())}))}
    plain = {split: torch.tensor([words[c] for c in text]) for split, text in texts.items()}
    shifted = {split: torch.tensor([words[c] for c in text.swapcase()]) for split, text in texts.items()}
    low, high = discover("autopeft.methods")["lora"].at_width(WIDTH).learning_rate_range
    usual = low * (high / low) ** POSITION
    if not arguments.out.exists():
        arguments.out.write_text(",".join(FIELDS) + "\n")
    for name, make_config in MODELS.items():
        folder = arguments.models / name
        if not (folder / "config.json").exists():
            torch.manual_seed(0)
            module = transformers.AutoModelForCausalLM.from_config(make_config(len(words)))
            train(module, plain["train"], rate=PRETRAIN_RATE, n_steps=PRETRAIN_STEPS, seed=0)
            print(name, f"validation loss {loss_of(module.eval(), plain['validation']):.3f}", flush=True)
            module.save_pretrained(folder)
        before = loss_of(transformers.AutoModelForCausalLM.from_pretrained(folder).eval(), shifted["test"])
        for label, components in COMPONENTS.items():
            for seed in range(N_SEEDS):
                with arguments.out.open(newline="") as file:
                    rows = [r for r in csv.DictReader(file) if (r["model"], r["components"]) == (name, label)]
                first = {float(row["factor"]): float(row["validation"]) for row in rows if row["seed"] == "0"}
                done = {float(row["factor"]) for row in rows if row["seed"] == str(seed)}
                for factor in FACTORS if seed == 0 else [min(first, key=lambda each: first[each])]:
                    if factor in done:
                        continue
                    module, rank = adapted(folder, components, seed)
                    train(module.train(), shifted["train"], rate=factor * usual, n_steps=STEPS, seed=seed)
                    module.eval()
                    losses = [loss_of(module, shifted[split]) for split in ("validation", "test")]
                    n_params = sum(p.numel() for p in module.parameters() if p.requires_grad)
                    row = [name, label, seed, factor, f"{factor * usual:.3g}", rank, n_params, STEPS]
                    row += [f"{value:.4f}" for value in (before, *losses)]
                    with arguments.out.open("a", newline="") as file:
                        csv.writer(file, lineterminator="\n").writerow(row)
                    print(*row, flush=True)
    print_table(arguments.out)


if __name__ == "__main__":
    main()

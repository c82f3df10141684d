"""Processor time of a step of HiRA, by `peft`'s layers and by ours, relative to a step of LoRA.

    python reports/speed/light_hira.py [--repeats 6] [--threads 1]

An encoder of MiniLM's widths with random weights, 16 rows, all linear maps of its layers adapted at rank 1
(LoRA 2), forward and backward pass; the quickest of the repeats, which take turns.
"""

from __future__ import annotations

import argparse
import time

import torch
from peft import HiraConfig, LoraConfig, PeftModel
from transformers import BertConfig, BertModel

from autopeft.model import attach

N_ROWS = 16
TOKENS = (16, 32, 64, 128)
MAPS = r".*encoder.*\.(query|key|value|dense)"


def encoder(config: LoraConfig | HiraConfig, *, lightened: bool) -> PeftModel:
    """The encoder with an adapter."""
    torch.manual_seed(0)
    shape = BertConfig(hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536)
    module = BertModel(shape).requires_grad_(False)
    return attach(module, [config], task_type=None, head_names=(), lightened=lightened)


def seconds(model: PeftModel, ids: torch.Tensor, *, narrow: bool) -> float:
    """Processor seconds of a forward and a backward pass."""
    started = time.process_time()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=narrow):
        states = model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
    states.float().square().mean().backward()
    return time.process_time() - started


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=6)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    models = {
        "LoRA": encoder(LoraConfig(r=2, target_modules=MAPS), lightened=True),
        "peft's HiRA": encoder(HiraConfig(r=1, target_modules=MAPS), lightened=False),
        "HiRA": encoder(HiraConfig(r=1, target_modules=MAPS), lightened=True),
    }
    print("| format | tokens | LoRA, ms | peft's HiRA | ours |\n|---|---:|---:|---:|---:|")
    for narrow in (False, True):
        for n_tokens in TOKENS:
            ids = torch.randint(0, 30_000, (N_ROWS, n_tokens))
            best = dict.fromkeys(models, float("inf"))
            for _ in range(given.repeats):
                for name, model in models.items():
                    best[name] = min(best[name], seconds(model, ids, narrow=narrow))
            lora, theirs, ours = best.values()
            kind = "bfloat16" if narrow else "float32"
            print(
                f"| {kind} | {n_tokens} | {1000 * lora:.0f} | {theirs / lora:.2f} | {ours / lora:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()

"""The best learning rate of the head alone, after full and after short runs, on features that never change.

    python reports/studies/head_alone.py DATA [DATA ...]

The demo model's pooled output is computed once for each text. A linear map on this output is trained like
the head of a plan, by AdamW with a linear warm-up and decay, with 5 seeds. Prints the mean loss and the
mean metric (accuracy, or Pearson's r where labels are numbers) on the search split for every rate and
length.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from autopeft.data import load
from autopeft.model import BaseModel
from autopeft.model import load as load_model
from autopeft.records import DataSpec, ModelSpec

RATES = (7e-3, 1.4e-2, 3e-2, 6.5e-2, 1.4e-1, 3e-1, 6.5e-1)
STEPS = (11, 18, 30, 45, 75)  # and a full run of 3 epochs
SEEDS, BATCH = range(5), 32


def pooled(base: BaseModel, texts: Sequence[tuple[str, ...]]) -> torch.Tensor:
    """The inputs of the classifier, shape (texts, features)."""
    features: dict[int, torch.Tensor] = {}
    order = sorted(range(len(texts)), key=lambda i: len(" ".join(texts[i])))
    with torch.inference_mode():
        for start in range(0, len(order), 64):
            chosen = order[start : start + 64]
            columns = [list(column) for column in zip(*[texts[i] for i in chosen], strict=True)]
            encoded = base.tokenizer(
                *columns, truncation=True, max_length=128, padding=True, return_tensors="pt"
            )
            features.update(zip(chosen, base.module.base_model(**encoded).pooler_output, strict=True))
    return torch.stack([features[i] for i in range(len(texts))])


def trained(
    train: tuple[torch.Tensor, torch.Tensor], *, n_outputs: int, rate: float, steps: int, seed: int
) -> nn.Linear:
    """The head after so many steps; regression where it has one output."""
    features, labels = train
    torch.manual_seed(seed)
    head = nn.Linear(features.shape[1], n_outputs)
    nn.init.normal_(head.weight, std=0.02)
    nn.init.zeros_(head.bias)
    optimizer = torch.optim.AdamW(head.parameters(), lr=rate, weight_decay=0.0)
    warmup, waiting = max(1, round(0.06 * steps)), torch.empty(0, dtype=torch.long)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = rate * min(
            (step + 1) / warmup, (steps - step) / (steps - warmup + 1)
        )
        if len(waiting) < BATCH:
            waiting = torch.randperm(len(features))
        chosen, waiting = waiting[:BATCH], waiting[BATCH:]
        loss_of(head(nn.functional.dropout(features[chosen], 0.1)), labels[chosen]).backward()
        nn.utils.clip_grad_norm_(head.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return head


def loss_of(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Squared error of one output, cross-entropy of several."""
    if outputs.shape[1] == 1:
        return nn.functional.mse_loss(outputs[:, 0], labels.float())
    return nn.functional.cross_entropy(outputs, labels)


def main(sources: Sequence[str]) -> None:
    """Print one table for each set."""
    for source in sources:
        data = load(DataSpec(source=source, max_examples=4000), seed=0)
        is_number = data.target.kind == "number"
        base = load_model(
            ModelSpec(), auto_class="AutoModelForSequenceClassification", label_names=data.label_names
        )
        base.module.eval()
        sets = [(pooled(base, part.inputs), torch.tensor(part.labels)) for part in (data.train, data.search)]
        full = math.ceil(3 * (len(sets[0][0]) // BATCH))
        rms = float(sets[0][0].square().mean().sqrt())
        print(f"\n{source}: {len(sets[0][0])} rows, RMS of the features {rms:.3f}")
        print("| steps | " + " | ".join(f"{rate:g}" for rate in RATES) + " |\n" + "|---" * 8 + "|")
        for steps in (*STEPS, full):
            cells = []
            for rate in RATES:
                seen = []
                for seed in SEEDS:
                    n_outputs = 1 if is_number else len(data.label_names)
                    head = trained(sets[0], n_outputs=n_outputs, rate=rate, steps=steps, seed=seed)
                    with torch.no_grad():
                        outputs, labels = head(sets[1][0]), sets[1][1]
                    right = outputs.argmax(1) == labels
                    metric = np.corrcoef(outputs[:, 0], labels)[0, 1] if is_number else right.float().mean()
                    seen.append((float(loss_of(outputs, labels)), 100 * float(metric)))
                loss, metric = np.mean(seen, axis=0)
                cells.append(f"{loss:.3f}, {metric:.1f}")
            print(f"| {steps} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])

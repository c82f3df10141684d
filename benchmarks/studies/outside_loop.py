"""A training loop that shares no code with the search, for `plain_loop.py` and `usual_recipe.py`.

Batches of similar length in random order, AdamW, linear decay after a short warm-up, clipped gradients,
number labels in units of their spread. Predictions are scored by scikit-learn, scipy and seqeval.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import stats
from seqeval.metrics import f1_score as entity_f1
from sklearn.metrics import accuracy_score, f1_score
from torch import nn

from autopeft.adapters import compile_plan
from autopeft.data import LabelledData, Split
from autopeft.model import BaseModel
from autopeft.plugins import discover
from autopeft.types import Plan

_TASK_TYPES = {"class": "SEQ_CLS", "number": "SEQ_CLS", "tags": "TOKEN_CLS"}
_IGNORED = -100


@dataclass(frozen=True)
class Run:
    """How a plan is trained: optimizer steps, rows a step, seed, and the head's rate (None: the plan's)."""

    n_steps: int
    batch_size: int
    seed: int
    head_rate: float | None = None


def predictions(
    plan: Plan, base: BaseModel, data: LabelledData, splits: Sequence[Split], run: Run
) -> list[list[Any]]:
    """Train on the train split and predict each split: a class, a number, or a tag per word."""
    stack = compile_plan(plan, discover("autopeft.methods"))
    task_type = _TASK_TYPES[data.label_space.kind]
    with base.attached(stack.configs, plan=plan, task_type=task_type, seed=run.seed) as model:
        _train(model, plan, stack, base, data, run)
        return [_predicted(model, base, data, split) for split in splits]


def score(metric: str, data: LabelledData, split: Split, predicted: Sequence[Any]) -> float:
    """Compute the metric of a search: accuracy, macro-F1, Pearson's r or F1 of entities."""
    if metric == "pearson":
        return float(stats.pearsonr(split.labels, predicted).statistic)
    if metric == "entity-f1":
        names = data.label_space.names
        truth = [[names[tag] for tag in tags] for tags in split.labels]
        guesses = [[names[tag] for tag in tags] for tags in predicted]
        return float(entity_f1(truth, guesses))
    if metric == "macro-f1":
        return float(f1_score(split.labels, predicted, average="macro"))
    return float(accuracy_score(split.labels, predicted))


def _train(model: nn.Module, plan: Plan, stack: Any, base: BaseModel, data: LabelledData, run: Run) -> None:
    parts = _groups(model, plan, stack, run.head_rate or plan.learning_rate)
    optimizer = torch.optim.AdamW(parts, weight_decay=0.0)
    warmup = max(1, round(0.06 * run.n_steps))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda t: min((t + 1) / warmup, max(0.0, (run.n_steps - t) / (run.n_steps - warmup + 1)))
    )
    mean, spread = _scale(data)
    rng = np.random.default_rng(run.seed)
    model.train()
    torch.manual_seed(run.seed)
    waiting: list[list[int]] = []
    for _ in range(run.n_steps):
        waiting = waiting or _epoch(data.train, batch_size=run.batch_size, rng=rng)
        chosen = waiting.pop()
        features, first_pieces = _tokens(base, data, [data.train.inputs[i] for i in chosen])
        logits = model(**features).logits
        labels = [data.train.labels[i] for i in chosen]
        if data.label_space.kind == "number":
            wanted = (torch.tensor(labels) - mean) / spread
            loss = nn.functional.mse_loss(logits[:, 0], wanted.float())
        elif data.label_space.kind == "tags":
            wanted = torch.full(logits.shape[:2], _IGNORED)
            for row, (pieces, tags) in enumerate(zip(first_pieces, labels, strict=True)):
                for word, piece in pieces.items():
                    wanted[row, piece] = tags[word]
            loss = nn.functional.cross_entropy(logits.flatten(0, 1), wanted.flatten(), ignore_index=_IGNORED)
        else:
            loss = nn.functional.cross_entropy(logits, torch.tensor(labels))
        loss.backward()
        nn.utils.clip_grad_norm_([p for part in parts for p in part["params"]], 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()


def _groups(model: nn.Module, plan: Plan, stack: Any, head_rate: float) -> list[dict[str, Any]]:
    """Group parameters by learning rate: a method's own, and the head's."""
    factors = {adapter.method: adapter.rate_factor for adapter in plan.adapters}
    head, groups = [], defaultdict(list)
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if "modules_to_save" in name:
            head.append(parameter)
            continue
        pairs = zip(stack.names, stack.configs, strict=False)
        config = next((config for target, config in pairs if f".{target}" in name), None)
        kind = "" if config is None else config.peft_type.value.lower()
        groups[factors.get(kind, 1.0)].append(parameter)
    parts = [{"params": group, "lr": plan.learning_rate * factor} for factor, group in groups.items()]
    return [*parts, {"params": head, "lr": head_rate}]


def _predicted(model: nn.Module, base: BaseModel, data: LabelledData, split: Split) -> list[Any]:
    mean, spread = _scale(data)
    model.eval()
    predicted: list[Any] = [None] * len(split.labels)
    order = sorted(range(len(predicted)), key=lambda i: _length(split, i))
    with torch.inference_mode():
        for start in range(0, len(order), 64):
            chosen = order[start : start + 64]
            features, first_pieces = _tokens(base, data, [split.inputs[i] for i in chosen])
            logits = model(**features).logits
            if data.label_space.kind == "tags":
                outside = data.label_space.names.index("O")
                for row, i in enumerate(chosen):
                    guesses = logits[row].argmax(-1).tolist()
                    pieces = first_pieces[row]
                    n_words = len(split.labels[i])
                    predicted[i] = [guesses[pieces[w]] if w in pieces else outside for w in range(n_words)]
            elif data.label_space.kind == "number":
                for i, value in zip(chosen, logits[:, 0].tolist(), strict=True):
                    predicted[i] = value * spread + mean
            else:
                for i, value in zip(chosen, logits.argmax(-1).tolist(), strict=True):
                    predicted[i] = value
    return predicted


def _scale(data: LabelledData) -> tuple[float, float]:
    """Compute mean and spread of number labels; (0, 1) for others."""
    if data.label_space.kind != "number":
        return 0.0, 1.0
    return float(np.mean(data.train.labels)), float(np.std(data.train.labels))


def _length(split: Split, row: int) -> int:
    return sum(len(" ".join(part) if not isinstance(part, str) else part) for part in split.inputs[row])


def _epoch(split: Split, *, batch_size: int, rng: np.random.Generator) -> list[list[int]]:
    """Yield whole batches of every row once, in random order; eight batches are sorted by length."""
    rows = rng.permutation(len(split.labels)).tolist()
    batches = []
    for start in range(0, len(rows), 8 * batch_size):
        near = sorted(rows[start : start + 8 * batch_size], key=lambda i: _length(split, i))
        batches += [near[i : i + batch_size] for i in range(0, len(near), batch_size)]
    whole = [batch for batch in batches if len(batch) == batch_size]
    return [whole[i] for i in rng.permutation(len(whole))]


def _tokens(
    base: BaseModel, data: LabelledData, inputs: Sequence[Any]
) -> tuple[dict[str, torch.Tensor], list[dict[int, int]]]:
    """Tokenize a padded batch, and find each word's first piece in rows of words."""
    if data.label_space.kind == "tags":
        words = [row for (row,) in inputs]
        encoded = base.tokenizer(
            words,
            is_split_into_words=True,
            truncation=True,
            max_length=128,
            padding=True,
            return_tensors="pt",
        )
        places = []
        for row in range(len(words)):
            first: dict[int, int] = {}
            for piece, word in enumerate(encoded.word_ids(row)):
                if word is not None:
                    first.setdefault(word, piece)
            places.append(first)
        return dict(encoded), places
    columns = [list(column) for column in zip(*inputs, strict=True)]
    encoded = base.tokenizer(*columns, truncation=True, max_length=128, padding=True, return_tensors="pt")
    return dict(encoded), []

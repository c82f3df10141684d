"""What a language model got of the tokens it was to write, batch by batch, and the metrics of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from autopeft.extension import Evaluation
from autopeft.metrics import ratio_scores
from autopeft.tasks._padding import IGNORED

METRICS = ("loss", "perplexity", "token-accuracy", "exact-match")


def is_greater_better(metric: str) -> bool:
    """Of what is counted right."""
    return metric in ("token-accuracy", "exact-match")


def span_of(metric: str) -> float | None:
    """Answers are right or not; all else has no bounds."""
    return 1.0 if metric == "exact-match" else None


def token_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy over the labels (B, T) that count, in nats, shape ()."""
    return nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED)


@dataclass
class Tally:
    """Per example: summed cross-entropy, tokens that count, how many were right, whether the answer was."""

    losses: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    hits: list[int] = field(default_factory=list)
    right: list[float] = field(default_factory=list)

    def add(self, logits: torch.Tensor, labels: torch.Tensor, right: Sequence[float]) -> None:
        """Count a batch: logits (B, T, V), labels (B, T) with -100 where nothing counts."""
        # Flat, since torch 2.13 sums over a strided V with less care: 1e-4 nats too little at 49,152 words.
        own = nn.functional.cross_entropy(
            logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="none"
        ).view_as(labels)
        counts = labels != IGNORED
        self.losses += own.double().sum(dim=1).tolist()
        self.tokens += counts.sum(dim=1).tolist()
        self.hits += ((logits.argmax(dim=-1) == labels) & counts).sum(dim=1).tolist()
        self.right += right

    def evaluation(self, metric: str) -> Evaluation:
        """The metric, the loss over tokens, and one score per example."""
        n_tokens = max(1, sum(self.tokens))
        loss = math.fsum(self.losses) / n_tokens
        if metric == "exact-match":
            value, scores = sum(self.right) / len(self.right), tuple(self.right)
        elif metric == "token-accuracy":
            value, scores = sum(self.hits) / n_tokens, ratio_scores(self.hits, self.tokens)
        else:
            value, scores = loss, ratio_scores(self.losses, self.tokens)
        if metric == "perplexity":
            value = math.exp(min(loss, 700.0))  # beyond it there is no float
            scores = tuple(value * (1 + score - loss) for score in scores)  # to first order, as exp' = exp
        return Evaluation(metric=value, loss=loss, example_scores=scores)

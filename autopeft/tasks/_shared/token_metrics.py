"""Metrics of tokens and of generated texts, from counts per example that are collected batch by batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from autopeft.metrics import Scored, ratio_scores
from autopeft.plugins import Evaluation
from autopeft.types import MetricFacts

EXACT_MATCH, TOKEN_ACCURACY = "exact-match", "token-accuracy"


@dataclass
class TokenCounts:
    """Per example: summed cross-entropy, labelled tokens, right ones, and the score of the generated text."""

    losses: list[float] = field(default_factory=list)
    n_tokens: list[int] = field(default_factory=list)
    n_hits: list[int] = field(default_factory=list)
    text_scores: list[float] = field(default_factory=list)

    @property
    def mean_loss(self) -> float:
        """Cross-entropy per labelled token, in nats."""
        return math.fsum(self.losses) / max(1, sum(self.n_tokens))

    def add(
        self, losses: Tensor, hits: Tensor, is_labelled: Tensor, text_scores: Sequence[float] = ()
    ) -> None:
        """Add a batch: losses and hits (N,) of its labelled tokens (B, T), row by row, and text scores."""
        # On the CPU: a GPU sums in no fixed order, and Apple's GPUs have no float64.
        is_labelled, of_tokens = is_labelled.cpu(), torch.stack([losses, hits], dim=1).cpu()
        n_tokens, rows = is_labelled.sum(dim=1), is_labelled.nonzero()[:, 0]
        of_rows = torch.zeros(len(is_labelled), 2, dtype=torch.double)
        of_rows.index_add_(0, rows, of_tokens.double())
        self.losses += of_rows[:, 0].tolist()
        self.n_tokens += n_tokens.tolist()
        self.n_hits += of_rows[:, 1].long().tolist()
        self.text_scores += text_scores

    def evaluation(self, metric: TokenMetric) -> Evaluation:
        """Compute the metric, the loss per token, and one score per example."""
        value, scores = metric.score(self)
        return Evaluation(metric=value, loss=self.mean_loss, example_scores=scores)


@dataclass(frozen=True, kw_only=True)
class TokenMetric(MetricFacts):
    """A metric of token counts."""

    score: Callable[[TokenCounts], Scored]


def _loss(counts: TokenCounts) -> Scored:
    return counts.mean_loss, ratio_scores(counts.losses, counts.n_tokens)


def _token_accuracy(counts: TokenCounts) -> Scored:
    accuracy = sum(counts.n_hits) / max(1, sum(counts.n_tokens))
    return accuracy, ratio_scores(counts.n_hits, counts.n_tokens)


def mean_of_texts(counts: TokenCounts) -> Scored:
    """Average the scores of the generated texts."""
    return sum(counts.text_scores) / len(counts.text_scores), tuple(counts.text_scores)


TOKEN_METRICS = {
    "loss": TokenMetric(name="loss", score=_loss, greater_is_better=False),
    TOKEN_ACCURACY: TokenMetric(
        name=TOKEN_ACCURACY, label="token accuracy", score=_token_accuracy, is_share=True
    ),
    EXACT_MATCH: TokenMetric(
        name=EXACT_MATCH, label="exact match", score=mean_of_texts, is_share=True, score_span=1.0
    ),
}

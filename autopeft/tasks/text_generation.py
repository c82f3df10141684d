"""Text generation by a causal language model: all of a text, or what follows a prompt."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from autopeft.errors import DataError, UnknownNameError
from autopeft.extension import Batch, Encoded, Evaluation, Example, Target
from autopeft.records import TaskSpec
from autopeft.tasks._answers import answer_in, generated, given, pattern_of, require_answers
from autopeft.tasks._padding import IGNORED, features, padded, padded_features
from autopeft.tasks._tally import METRICS, Tally, is_greater_better, span_of, token_loss
from autopeft.tasks._writing import blocks, completions

_WITH_PROMPT = ("completion", "chat")


@dataclass(frozen=True)
class TextGeneration:
    """Next-token cross-entropy, in nats per token that is learned; the metric is that loss on held-out text.

    `perplexity` is its exponential; `exact-match` generates greedily and compares what `answer_pattern`
    finds.
    """

    name: str = "text-generation"
    form: str = "language"
    metric: str = "loss"
    metrics: tuple[str, ...] = METRICS
    peft_task_type: str | None = "CAUSAL_LM"
    auto_class: str = "AutoModelForCausalLM"
    target: Target = field(default_factory=lambda: Target(kind="documents"))
    notes: tuple[str, ...] = ()
    tokenizer: Any = field(default=None, repr=False, compare=False)
    answer_pattern: str | None = None
    max_new_tokens: int = 64

    @property
    def greater_is_better(self) -> bool:
        """As the metric has it."""
        return is_greater_better(self.metric)

    @property
    def score_span(self) -> float | None:
        """As the metric has it."""
        return span_of(self.metric)

    def fitted(self, spec: TaskSpec, target: Target, tokenizer: Any = None) -> TextGeneration:
        """The task for a dataset of texts."""
        if target.kind not in (*_WITH_PROMPT, "documents", "stream"):
            raise DataError(f"{self.name} learns texts, not {target.kind}; choose another --task.")
        metric = spec.metric or self.metric
        if metric not in self.metrics:
            raise UnknownNameError(f"metric of {self.name}", metric, self.metrics)
        if metric == "exact-match" and target.kind not in _WITH_PROMPT:
            raise DataError(
                "exact-match needs prompts with completions, but the rows are texts; ask for loss."
            )
        pattern_of(spec.answer_pattern)
        return replace(
            self,
            target=target,
            metric=metric,
            tokenizer=tokenizer,
            answer_pattern=spec.answer_pattern,
            max_new_tokens=spec.max_new_tokens,
        )

    def encode(
        self, inputs: Sequence[Sequence[Any]], labels: Sequence[Any], tokenizer: Any, max_length: int
    ) -> Encoded:
        """Blocks of `max_length` tokens, or a prompt with its completion per example."""
        texts = [text for (text,) in inputs]
        if self.target.kind not in _WITH_PROMPT:
            return blocks(texts, tokenizer, max_length, apart=self.target.kind == "documents")
        if self.metric == "exact-match":
            require_answers(labels, pattern_of(self.answer_pattern))
        return completions(texts, labels, tokenizer, max_length, chat=self.target.kind == "chat")

    def collate(self, examples: Sequence[Example], labels: Sequence[Any], pad_token_id: int) -> Batch:
        """One batch padded on the right: features and `labels` (B, T), -100 where nothing is learned."""
        return {**padded_features(examples, pad_token_id), "labels": padded(labels, IGNORED)}

    def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """Mean cross-entropy over the learned tokens of the batch in nats, shape ()."""
        return token_loss(*_next_tokens(model, batch))

    def evaluate(self, model: nn.Module, batches: Iterator[Batch]) -> Evaluation:
        """The metric, the mean loss over learned tokens, and one score per example."""
        tally = Tally()
        with torch.inference_mode():
            for batch in batches:
                tally.add(*_next_tokens(model, batch), self._right(model, batch))
        return tally.evaluation(self.metric)

    def _right(self, model: nn.Module, batch: Batch) -> list[float]:
        """1 or 0 per example, by its generated answer; nothing where it is not asked for."""
        if self.metric != "exact-match":
            return []
        assert self.tokenizer is not None, "the task was fitted without a tokenizer"
        pattern = pattern_of(self.answer_pattern)
        made = generated(model, batch, self.tokenizer, max_new_tokens=self.max_new_tokens)
        pairs = zip(made, given(batch, self.tokenizer), strict=True)
        return [float(answer_in(own, pattern) == answer_in(true, pattern)) for own, true in pairs]


def _next_tokens(model: nn.Module, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Predictions in fp32 (B, T - 1, V) and what comes there (B, T - 1), without virtual tokens before."""
    labels = batch["labels"]
    logits: torch.Tensor = model(**features(batch)).logits
    return logits[:, -labels.shape[1] : -1].float(), labels[:, 1:]


PART = TextGeneration()

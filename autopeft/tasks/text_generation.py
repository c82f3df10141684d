"""Text generation by a causal language model: all of a text, or what follows a prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from autopeft.extension import Batch, Encoded, Example, Target
from autopeft.tasks._answers import generated, pattern_of, require_answers
from autopeft.tasks._padding import IGNORED, features, padded, padded_features
from autopeft.tasks._writing import blocks, completions
from autopeft.tasks._written import WritingTask

_WITH_PROMPT = ("completion", "chat")


@dataclass(frozen=True)
class TextGeneration(WritingTask):
    """Next-token cross-entropy over all of a text, or over what follows a prompt."""

    name: str = "text-generation"
    target: Target = field(default_factory=lambda: Target(kind="documents"))
    auto_class: str = "AutoModelForCausalLM"
    peft_task_type: str | None = "CAUSAL_LM"
    learns: tuple[str, ...] = (*_WITH_PROMPT, "documents", "stream")

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

    def _predicted(self, model: nn.Module, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Predictions (B, T - 1, V) and what comes there (B, T - 1), without virtual tokens before."""
        labels = batch["labels"]
        logits: torch.Tensor = model(**features(batch)).logits
        return logits[:, -labels.shape[1] : -1].float(), labels[:, 1:]

    def _made(self, model: nn.Module, batch: Batch) -> list[str]:
        return generated(model, batch, self.tokenizer, max_new_tokens=self.max_new_tokens)


PART = TextGeneration()

"""Text to text by an encoder with a decoder (T5, BART): the completion of a prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from autopeft.extension import Batch, Encoded, Example, Target
from autopeft.tasks._answers import pattern_of, require_answers, translated
from autopeft.tasks._padding import IGNORED, features, padded, padded_features
from autopeft.tasks._written import WritingTask


@dataclass(frozen=True)
class Text2TextGeneration(WritingTask):
    """Cross-entropy over the tokens of the completion."""

    name: str = "text2text-generation"
    target: Target = field(default_factory=lambda: Target(kind="completion"))
    auto_class: str = "AutoModelForSeq2SeqLM"
    peft_task_type: str | None = "SEQ_2_SEQ_LM"
    learns: tuple[str, ...] = ("completion",)

    def encode(
        self, inputs: Sequence[Sequence[Any]], labels: Sequence[Any], tokenizer: Any, max_length: int
    ) -> Encoded:
        """The prompt as features and the completion as labels, each cut at its end to `max_length` tokens."""
        if self.metric == "exact-match":
            require_answers(labels, pattern_of(self.answer_pattern))
        prompts = [text for (text,) in inputs]
        encoded = tokenizer(prompts, truncation=True, max_length=max_length)
        answers = tokenizer(text_target=list(labels), verbose=False)["input_ids"]
        n_long = sum(len(ids) > max_length for ids in tokenizer(prompts, verbose=False)["input_ids"])
        n_answers = sum(len(ids) > max_length for ids in answers)
        note = (
            f"{n_long} of {len(prompts)} prompts and {n_answers} completions were cut to {max_length} tokens."
        )
        return Encoded(
            examples=tuple({name: encoded[name][row] for name in encoded} for row in range(len(prompts))),
            labels=tuple(ids[:max_length] for ids in answers),
            notes=(note,) if n_long or n_answers else (),
        )

    def collate(self, examples: Sequence[Example], labels: Sequence[Any], pad_token_id: int) -> Batch:
        """One batch padded on the right: features (B, T), `labels` (B, U) of the completion."""
        return {**padded_features(examples, pad_token_id), "labels": padded(labels, IGNORED)}

    def _predicted(self, model: nn.Module, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Predictions of the completion's tokens (B, U, V); the model itself shifts the labels."""
        logits: torch.Tensor = model(**batch).logits
        return logits[:, -batch["labels"].shape[1] :].float(), batch["labels"]

    def _made(self, model: nn.Module, batch: Batch) -> list[str]:
        return translated(model, features(batch), self.tokenizer, max_new_tokens=self.max_new_tokens)


PART = Text2TextGeneration()

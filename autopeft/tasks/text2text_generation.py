"""Text to text by an encoder with a decoder (T5, BART): the completion of a prompt."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from autopeft.errors import DataError, UnknownNameError
from autopeft.extension import Batch, Encoded, Evaluation, Example, Target
from autopeft.records import TaskSpec
from autopeft.tasks._answers import answer_in, given, pattern_of, require_answers, translated
from autopeft.tasks._padding import IGNORED, features, padded, padded_features
from autopeft.tasks._tally import METRICS, Tally, is_greater_better, span_of, token_loss


@dataclass(frozen=True)
class Text2TextGeneration:
    """Cross-entropy in nats per token of the completion; the metric is that loss on held-out text."""

    name: str = "text2text-generation"
    form: str = "language"
    metric: str = "loss"
    metrics: tuple[str, ...] = METRICS
    peft_task_type: str | None = "SEQ_2_SEQ_LM"
    auto_class: str = "AutoModelForSeq2SeqLM"
    target: Target = field(default_factory=lambda: Target(kind="completion"))
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

    def fitted(self, spec: TaskSpec, target: Target, tokenizer: Any = None) -> Text2TextGeneration:
        """The task for a dataset of prompts with completions."""
        if target.kind != "completion":
            raise DataError(f"{self.name} learns completions, not {target.kind}; choose another --task.")
        metric = spec.metric or self.metric
        if metric not in self.metrics:
            raise UnknownNameError(f"metric of {self.name}", metric, self.metrics)
        pattern_of(spec.answer_pattern)
        return replace(
            self,
            metric=metric,
            tokenizer=tokenizer,
            answer_pattern=spec.answer_pattern,
            max_new_tokens=spec.max_new_tokens,
        )

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

    def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """Mean cross-entropy over the tokens of the completions in nats, shape ()."""
        return token_loss(_logits(model, batch), batch["labels"])

    def evaluate(self, model: nn.Module, batches: Iterator[Batch]) -> Evaluation:
        """The metric, the mean loss over the completions' tokens, and one score per example."""
        tally = Tally()
        with torch.inference_mode():
            for batch in batches:
                tally.add(_logits(model, batch), batch["labels"], self._right(model, batch))
        return tally.evaluation(self.metric)

    def _right(self, model: nn.Module, batch: Batch) -> list[float]:
        """1 or 0 per example, by its generated answer; nothing where it is not asked for."""
        if self.metric != "exact-match":
            return []
        assert self.tokenizer is not None, "the task was fitted without a tokenizer"
        pattern = pattern_of(self.answer_pattern)
        made = translated(model, features(batch), self.tokenizer, max_new_tokens=self.max_new_tokens)
        pairs = zip(made, given(batch, self.tokenizer), strict=True)
        return [float(answer_in(own, pattern) == answer_in(true, pattern)) for own, true in pairs]


def _logits(model: nn.Module, batch: Batch) -> torch.Tensor:
    """Predictions of the completion's tokens (B, U, V) in fp32; the model itself shifts the labels."""
    logits: torch.Tensor = model(**batch).logits
    return logits[:, -batch["labels"].shape[1] :].float()


PART = Text2TextGeneration()

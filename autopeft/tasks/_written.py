"""What tasks that write text share: settings, loss, evaluation, and answers that are generated."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from autopeft.data import ReadRows, read_language
from autopeft.errors import DataError, UnknownNameError
from autopeft.extension import Batch, Evaluation, Target
from autopeft.records import TaskSpec
from autopeft.tasks._answers import answer_in, given, pattern_of
from autopeft.tasks._tally import METRICS, Tally, is_greater_better, span_of, token_loss

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(frozen=True)
class WritingTask:
    """Cross-entropy in nats per token that is learned; the metric is that loss on held-out text.

    `perplexity` is its exponential; `exact-match` generates greedily and compares what `answer_pattern`
    finds. A task says what is predicted of a batch (`_predicted`) and how an answer is made (`_made`).
    """

    name: str
    target: Target
    auto_class: str
    peft_task_type: str | None
    learns: tuple[str, ...]
    read_rows: ReadRows = read_language
    metric: str = "loss"
    metrics: tuple[str, ...] = METRICS
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

    def fitted(self, spec: TaskSpec, target: Target, tokenizer: Any = None) -> Self:
        """The task for a dataset of texts, of one of the kinds that it learns."""
        if target.kind not in self.learns:
            noun = "completions" if self.learns == ("completion",) else "texts"
            raise DataError(f"{self.name} learns {noun}, not {target.kind}; choose another --task.")
        metric = spec.metric or self.metric
        if metric not in self.metrics:
            raise UnknownNameError(f"metric of {self.name}", metric, self.metrics)
        if metric == "exact-match" and target.kind not in ("completion", "chat"):
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

    def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """Mean cross-entropy over the learned tokens of the batch in nats, shape ()."""
        return token_loss(*self._predicted(model, batch))

    def evaluate(self, model: nn.Module, batches: Iterator[Batch]) -> Evaluation:
        """The metric, the mean loss over learned tokens, and one score per example."""
        tally = Tally()
        with torch.inference_mode():
            for batch in batches:
                tally.add(*self._predicted(model, batch), self._right(model, batch))
        return tally.evaluation(self.metric)

    def _predicted(self, model: nn.Module, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Predictions in fp32 (B, U, V) and the tokens there (B, U), -100 where nothing is learned."""
        raise NotImplementedError

    def _made(self, model: nn.Module, batch: Batch) -> list[str]:
        """The answers that the model writes."""
        raise NotImplementedError

    def _right(self, model: nn.Module, batch: Batch) -> list[float]:
        """1 or 0 per example, by its generated answer; nothing where it is not asked for."""
        if self.metric != "exact-match":
            return []
        assert self.tokenizer is not None, "the task was fitted without a tokenizer"
        pattern = pattern_of(self.answer_pattern)
        pairs = zip(self._made(model, batch), given(batch, self.tokenizer), strict=True)
        return [float(answer_in(own, pattern) == answer_in(true, pattern)) for own, true in pairs]

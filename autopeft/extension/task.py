"""The protocols of a task type and of a metric, and the records that a task works with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from autopeft.records import DataSpec, TaskSpec

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import nn

Batch = dict[str, Any]
Example = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Target:
    """What the labels of a dataset are.

    `kind` is `class` (one per row), `classes` (any number of them), `number`, `tags` (one per token),
    `choice` (which of a row's own answers), or says what a language model is to write: `completion` or
    `chat` (the last answer), `documents` or `stream` (all of the text, in rows that stand alone or go on
    from each other).
    `names` are the labels in the order of the model's outputs: of a number its column's name, of
    texts none. `counts` says how often train has each; `mean` and `std` are those of numbers in train.
    """

    kind: str = "class"
    names: tuple[str, ...] = ()
    counts: tuple[int, ...] = ()
    mean: float = 0.0
    std: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """Rows as features, one entry per example in each; `notes` say what was cut off, in plain words.

    A task may make more or fewer examples than there are rows (blocks of a text).
    """

    examples: tuple[Example, ...]
    labels: tuple[Any, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What a task says of a model on some batches; scores stand in the order of the batches.

    The mean of the scores is the metric. Where the metric is no mean (a correlation, an F1) they are
    its jackknife pseudo-values, moved so that their mean is the metric: their spread gives its variance.
    """

    metric: float
    loss: float
    example_scores: tuple[float, ...]


@runtime_checkable
class Task(Protocol):
    """A task type: how rows become batches, the loss, and the metric.

    The part itself stands for the commonest target; `fitted` gives the task for one dataset.
    `read_rows` is a reader of `autopeft.data`, such as `read_texts`, or any function from the settings and a
    list to add notes to, to an `autopeft.data.UncutRows`. `metrics` are those to choose from.
    `is_share` says whether the metric lies in [0, 1] and is read as percent: true for accuracies and F1.
    `score_span` is the width of the range of the scores (1 for an accuracy); None where they have no
    bounds. `peft_task_type` is None where `peft` has no word for the task. `notes` are decisions
    that the user should know, in plain words.
    """

    name: str
    read_rows: Callable[[DataSpec, list[str]], Any]
    metric: str
    metrics: tuple[str, ...]
    greater_is_better: bool
    is_share: bool
    score_span: float | None
    peft_task_type: str | None
    auto_class: str
    notes: tuple[str, ...]

    def fitted(self, spec: TaskSpec, target: Target, tokenizer: Any = None) -> Task:
        """The task for a dataset's target and the user's settings; `tokenizer` where it is known by now.

        Raises:
            UnknownNameError: No such metric.
            DataError: The target is none that the task can learn.
        """

    def encode(
        self, inputs: Sequence[Sequence[Any]], labels: Sequence[Any], tokenizer: Any, max_length: int, /
    ) -> Encoded:
        """Features per example (`input_ids` and its like), of at most `max_length` tokens, and labels.

        Args:
            inputs: One tuple per row, as `read_rows` makes them.
            labels: One per row, as the target says.
            tokenizer: Of the base model; of a vision model its image processor.
            max_length: In tokens.
        """

    def collate(self, examples: Sequence[Example], labels: Sequence[Any], pad_token_id: int) -> Batch:
        """One batch padded on the right: features (B, …) such as `input_ids`, and `labels` (B, …)."""

    def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """Mean loss of a batch, shape ()."""

    def evaluate(self, model: nn.Module, batches: Iterator[Batch]) -> Evaluation:
        """Metric, mean loss and per-example scores, without gradients."""


@runtime_checkable
class DrawsLabels(Protocol):
    """What a task whose labels are numbers offers beside: labels from the model's own predictions.

    Without it the score `fisher_sampled` can be had where labels are classes alone, which it draws itself.
    """

    def draw_labels(self, logits: torch.Tensor, generator: torch.Generator) -> torch.Tensor | None:
        """Labels drawn from the distribution of which the loss is -log p, up to a factor and a constant.

        Args:
            logits: The model's predictions (B, …), fp32, on the CPU.
            generator: On the CPU; decides the draw.

        Returns:
            Shaped as the labels of a batch; None where they are classes.
        """


@runtime_checkable
class Metric(Protocol):
    """A metric of labels, for the tasks that predict classes or a number.

    Attributes:
        kinds: Those kinds of `Target` that it judges: `class`, `classes`, `number`, `choice`.
        default_for: Those kinds whose default metric it is; beside them `uneven`: one class per row
            with very uneven counts.
        greater_is_better: True for accuracies, False for errors.
        is_share: Whether its values lie in [0, 1] and are read as percent: true for accuracies and F1.
        score_span: Width of the range of its scores, 1 for an accuracy; None where they have no bounds.
    """

    name: str
    kinds: tuple[str, ...]
    default_for: tuple[str, ...]
    greater_is_better: bool
    is_share: bool
    score_span: float | None

    def score(
        self, truth: NDArray[np.float64], guesses: NDArray[np.float64], /
    ) -> tuple[float, tuple[float, ...]]:
        """The metric, and one score per example whose mean is the metric.

        Where the metric is no mean of examples, `autopeft.metrics.jackknife` makes the scores.

        Args:
            truth: Classes (N,) from 0, several classes (N, C) of 0 and 1, or numbers (N,).
            guesses: In the shape of `truth`.
        """

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

    Attributes:
        kind: `class` (one per row), `classes` (any number per row), `number`, `tags` (one per token) or
            `choice` (which of a row's answers is right). For language models, what they learn to write:
            `completion` or `chat` (the last answer), `documents` or `stream` (all of the text; each row
            stands alone, or goes on from the row before).
        names: The labels in the order of the model's outputs; the column's name for a number, () for texts.
        counts: How often the train split has each label; () where there are no names.
        mean: Mean of the numbers in the train split; 0 for other kinds.
        std: Standard deviation of the numbers in the train split, > 0; 1 for other kinds.
    """

    kind: str = "class"
    names: tuple[str, ...] = ()
    counts: tuple[int, ...] = ()
    mean: float = 0.0
    std: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """Rows as features; a task may make more or fewer examples than there are rows (blocks of a text).

    Attributes:
        examples: One dictionary of features per example, such as `input_ids`.
        labels: One per example, as `Task.collate` takes it.
        notes: Sentences for the user about what was cut off.
    """

    examples: tuple[Example, ...]
    labels: tuple[Any, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The quality of a model on some batches.

    Attributes:
        metric: In the unit of the task's metric.
        loss: Mean over the examples or tokens, as the task weighs them.
        example_scores: One per example, in the order of the batches; their mean is the metric. Where the
            metric is no mean (a correlation, an F1) they are its jackknife pseudo-values, moved so that
            their mean is the metric: their spread gives its variance.
    """

    metric: float
    loss: float
    example_scores: tuple[float, ...]


@runtime_checkable
class Task(Protocol):
    """A task type: how rows become batches, the loss, and the metric.

    The part itself stands for the commonest target; `fitted` gives the task for one dataset.

    Attributes:
        name: What specifications call it, such as `text-classification`.
        read_rows: A reader of `autopeft.data`, such as `read_texts`, or another function that makes an
            `autopeft.data.UncutRows` of the data settings, and adds notes for the user to a list.
        metric: The one that is measured.
        metrics: Names of the metrics to choose from.
        greater_is_better: True for accuracies, False for errors and losses.
        is_share: Whether the metric lies in [0, 1] and is read as percent: true for accuracies and F1.
        score_span: Width of the range of the example scores, 1 for an accuracy; None without bounds.
        peft_task_type: Such as `SEQ_CLS`; None where `peft` has no word for the task.
        auto_class: The class of `transformers` that loads a model with the head, such as
            `AutoModelForSequenceClassification`.
        notes: Decisions that the user should know, as sentences.
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
        """The task for one dataset.

        Args:
            spec: The user's settings.
            target: What the labels of the dataset are.
            tokenizer: None where it is not loaded yet.

        Raises:
            UnknownNameError: No such metric.
            DataError: The target is none that the task can learn.
        """

    def encode(
        self, inputs: Sequence[Sequence[Any]], labels: Sequence[Any], tokenizer: Any, max_length: int, /
    ) -> Encoded:
        """Features and labels of each example.

        Args:
            inputs: One tuple per row, as `read_rows` makes them.
            labels: One per row, as the target says.
            tokenizer: Of the base model; the image processor of a vision model.
            max_length: Most tokens of an example; the rest is cut off.
        """

    def collate(self, examples: Sequence[Example], labels: Sequence[Any], pad_token_id: int) -> Batch:
        """One batch padded on the right: features (B, …) such as `input_ids`, and `labels` (B, …)."""

    def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """Mean loss of a batch, shape ()."""

    def evaluate(self, model: nn.Module, batches: Iterator[Batch]) -> Evaluation:
        """Metric, mean loss and per-example scores, without gradients."""


@runtime_checkable
class DrawsLabels(Protocol):
    """A task that can draw labels from the model's predictions, for scores that sample them.

    Only tasks whose labels are numbers have to offer it; classes are drawn without the task.
    """

    def draw_labels(self, logits: torch.Tensor, generator: torch.Generator) -> torch.Tensor | None:
        """Labels drawn from the distribution p for which the loss is -log p, up to a factor and a constant.

        Args:
            logits: The model's predictions, shape (B, …), fp32, on the CPU.
            generator: On the CPU; decides the draw.

        Returns:
            In the shape of a batch's labels; None where the labels are classes.
        """


@runtime_checkable
class Metric(Protocol):
    """A metric of labels, for the tasks that predict classes or a number.

    Attributes:
        name: What specifications call it, such as `accuracy`.
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

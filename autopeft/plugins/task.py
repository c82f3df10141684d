"""The protocols of a task type and of a metric, and the records that a task works with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, runtime_checkable

from autopeft.types import DataSpec, MetricFacts, TaskSpec

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import nn

Batch = dict[str, Any]
Example = dict[str, Any]
LabelKind = Literal["class", "classes", "number", "tags", "completion", "chat", "documents"]
PROMPTED_KINDS = ("completion", "chat")  # have a prompt, and what is learned after it
PACKED_KINDS = ("documents",)  # are joined and cut into blocks of tokens
IGNORED = -100  # the label that PyTorch's cross-entropy leaves out


def last_answer(labels: Sequence[int]) -> tuple[int, Sequence[int]]:
    """Find where the last labelled part of a row begins, and its labels; (0, empty) without a label."""
    end = len(labels)
    while end and labels[end - 1] == IGNORED:
        end -= 1
    start = end
    while start and labels[start - 1] != IGNORED:
        start -= 1
    return start, labels[start:end]


@dataclass(frozen=True, kw_only=True)
class LabelSpace:
    """The labels of a dataset.

    `kind` is `class` (one per row), `classes` (any number per row), `number` or `tags` (one per token).
    Language models learn to write a `completion`, the answers of a `chat`, or all of `documents`.
    """

    kind: LabelKind = "class"
    names: tuple[str, ...] = ()  # labels in the order of the model's outputs; a number's column; () for texts
    counts: tuple[int, ...] = ()  # how often the train split has each label; () where there are no names
    mean: float = 0.0  # of the numbers in the train split; 0 for other kinds
    std: float = 1.0  # standard deviation of the numbers in the train split, > 0; 1 for other kinds


@dataclass(frozen=True, kw_only=True)
class TaskDefaults:
    """Limits for settings of a full run that are derived from the data; pairs are the least and the most."""

    max_length: tuple[int, int] | None  # tokens per example; None if the task reads no tokens
    batch_size: tuple[int, int]  # examples per step: about `step_tokens` tokens, or the most if that is None
    epochs: tuple[int, int]  # as many as see `seen_examples` examples, or the most if that is None
    is_packed: bool = False  # whether examples are blocks of a longer text, all with `max_length` tokens
    step_tokens: int | None = None
    seen_examples: int | None = None
    eval_examples: int | None = None  # of a split, enough to compare plans if time is short; None takes all
    # To generate per answer, for which the task must be a dataclass with a field of this name; None if the
    # metric needs no generated texts.
    max_new_tokens: tuple[int, int] | None = None
    family: str = "classification"  # whose listed plans a search tries; also tagging, language and images


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """Rows as features; a task may make more or fewer examples than there are rows (blocks of a text)."""

    examples: tuple[Example, ...]  # a dictionary of features each, such as `input_ids`
    labels: tuple[Any, ...]  # one per example, as `Task.collate` takes it
    notes: tuple[str, ...] = ()  # sentences for the user about what was cut off
    # Why nothing can be learned from these rows, for a DataError; empty if they are fine.
    refusal: str = ""
    dropped: tuple[int, ...] = ()  # examples to leave out, ascending; they have no labels that count


class WrittenText(NamedTuple):
    """A text that a model generated in an evaluation, with its prompt and reference."""

    prompt: str
    reference: str
    written: str


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The quality of a model on some batches."""

    metric: float | None  # in the unit of the task's metric; None if it was left out
    loss: float  # mean over the examples or tokens, as the task weighs them
    # One score per example, in the order of the batches, with the metric as their mean; () without a metric.
    # If the metric is not a mean (a correlation, an F1), they are its jackknife pseudo-values, shifted so
    # that their mean is the metric: their spread gives its variance.
    example_scores: tuple[float, ...]
    texts: tuple[WrittenText, ...] = ()  # in the same order, if the model generated some


@runtime_checkable
class Task(Protocol):
    """A task type: how rows become batches, the loss, and the metric.

    The plug-in itself is for the usual kind of labels; `fitted` adapts it to one dataset.
    """

    name: str  # of the setting, such as `text-classification`
    # A reader of `autopeft.data`, such as `read_texts`, or another function from the data settings to an
    # `autopeft.data.UncutRows`.
    read_rows: Callable[[DataSpec], Any]
    metric: MetricFacts  # that is measured
    metrics: tuple[str, ...]  # to choose from
    peft_task_type: str | None  # such as `SEQ_CLS`; None if `peft` has none for the task
    auto_class: str  # of `transformers`, such as `AutoModelForSequenceClassification`
    notes: tuple[str, ...]  # decisions for the user to know, as sentences
    defaults: TaskDefaults

    def fitted(self, spec: TaskSpec, label_space: LabelSpace, tokenizer: Any = None) -> Task:
        """Adapt the task to one dataset; the tokenizer is None if it is not loaded yet.

        Raises:
            UnknownNameError: No such metric.
            DataError: The task cannot learn these labels.
        """

    def encode(
        self, inputs: Sequence[Sequence[Any]], labels: Sequence[Any], tokenizer: Any, max_length: int, /
    ) -> Encoded:
        """Turn rows, one tuple of inputs each, into examples of at most `max_length` tokens.

        `tokenizer` is the image processor of a vision model. A large split is encoded some rows at a time, so
        that unusable rows are a `refusal` in the result, and not an error.
        """

    def collate(self, examples: Sequence[Example], labels: Sequence[Any], pad_token_id: int) -> Batch:
        """Make a batch: features (B, …) such as `input_ids`, padded on the right, and `labels` (B, …).

        Batches are kept for the next plan: nothing may change their tensors in place.
        """

    def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """Compute the mean loss of a batch, shape (); 0, with gradients of 0, if it has no term."""

    def n_terms(self, batch: Batch) -> int:
        """Count the terms that `loss` is the mean of: rows, or labelled tokens that are predicted.

        The loss of a batch is the mean of the losses of its parts, weighted with their terms.
        """

    def evaluate(self, model: nn.Module, batches: Iterator[Batch], *, generates: bool = True) -> Evaluation:
        """Compute metric, mean loss and per-example scores, without gradients.

        Unless `generates`, a metric that needs generated texts is None.
        """


@runtime_checkable
class PlacesBatches(Protocol):
    """A task that reads values of a batch on the CPU, so that its loss need not read them on the device.

    Reading values on a GPU (`nonzero`, `item`, a mask as an index) waits until all work there is done.
    """

    def placed(self, batch: Batch, place: Callable[[torch.Tensor], torch.Tensor]) -> Batch:
        """Copy a batch of `collate` to a device by `place`, which copies one tensor."""


@dataclass(frozen=True, kw_only=True)
class Metric(MetricFacts):
    """A metric of labels, for the tasks that predict classes or a number.

    - `kinds`: the kinds of `LabelSpace` that it judges: `class`, `classes`, `number`.
    - `score`: truth and guesses -> the metric, and one score per example, whose mean it is (see
      `metrics.jackknife`). Both are classes (N,) from 0, several classes (N, C) of 0 and 1, or numbers (N,).
    - `default_for`: the kinds whose default it is; `uneven` is one class per row with very uneven counts.
    """

    kinds: tuple[str, ...]
    score: Callable[[NDArray[np.float64], NDArray[np.float64]], tuple[float, tuple[float, ...]]]
    default_for: tuple[str, ...] = ()

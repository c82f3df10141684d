"""The record of tasks that generate text: settings, loss, and evaluation by tokens or by answers."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from autopeft import data
from autopeft.errors import DataError, SpecError
from autopeft.plugins import (
    IGNORED,
    PROMPTED_KINDS,
    Batch,
    Encoded,
    Evaluation,
    Example,
    LabelKind,
    LabelSpace,
    TaskDefaults,
    WrittenText,
    is_own_metric,
    last_answer,
    own_function,
)
from autopeft.tasks._shared.batches import Rows, pad, pad_features
from autopeft.tasks._shared.chat_templates import THOUGHTS
from autopeft.tasks._shared.token_losses import (
    HeadInputs,
    losses_and_hits,
    mean_loss,
    over_pieces,
    positions_of,
    run_to_output,
)
from autopeft.tasks._shared.token_metrics import (
    EXACT_MATCH,
    TOKEN_METRICS,
    TokenCounts,
    TokenMetric,
    mean_of_texts,
)
from autopeft.tasks._shared.usual import BLOCKS, COMPLETIONS, GENERATED, require_kind, require_metric
from autopeft.types import DataSpec, TaskSpec, shortened

# Thoughts before an answer, also without the opening tag, which may be part of the prompt.
_THOUGHTS = re.compile(
    rf"\A\s*<({THOUGHTS})>.*?</\1>\s*|\A(?:(?!<{THOUGHTS}>).)*?</{THOUGHTS}>\s*", re.DOTALL
)


@dataclass(frozen=True, kw_only=True)
class TextModel:
    """How a type of language model reads and writes."""

    # Of the kind of labels, texts, completions, tokenizer and max_length.
    encode: Callable[[LabelKind, Sequence[str], Sequence[str], Any, int], Encoded]
    features: Callable[[nn.Module, Batch], Batch]  # what the model is called with
    targets: Callable[[Tensor], Tensor]  # labels (B, T) -> the label that each position predicts, or -100
    generate: Callable[[nn.Module, Batch, Any, int], list[str]]  # of tokenizer and max_new_tokens


@dataclass(frozen=True, kw_only=True)
class WritingTask:
    """A task that learns to generate text, by cross-entropy in nats per labelled token."""

    name: str
    auto_class: str
    peft_task_type: str | None
    kinds: tuple[str, ...]
    label_space: LabelSpace
    model_type: TextModel
    notes: tuple[str, ...] = ()
    spec: TaskSpec = field(default_factory=TaskSpec)
    max_new_tokens: int = 64  # of an answer, if the rows do not say how many; heuristic
    tokenizer: Any = field(default=None, repr=False, compare=False)
    # Labels of a batch on its device -> positions of its targets. Slices of a batch are not in it.
    _positions: WeakTensorKeyDictionary = field(
        default_factory=WeakTensorKeyDictionary, init=False, repr=False, compare=False
    )

    def read_rows(self, spec: DataSpec) -> data.UncutRows:
        """Read rows by `autopeft.data.read_language`."""
        return data.read_language(spec)

    @property
    def metric(self) -> TokenMetric:
        """The metric that the user chose, else the default; for a user's function, the mean of its scores."""
        name = self.spec.metric or self.metrics[0]
        label = name.rpartition(":")[2].replace("_", " ")
        return TOKEN_METRICS.get(name) or TokenMetric(name=name, label=label, score=mean_of_texts)

    @property
    def defaults(self) -> TaskDefaults:
        """Defaults of a full run: of generated answers, prompts with completions, or blocks of text."""
        if self.judges_texts:
            return GENERATED
        return COMPLETIONS if self.label_space.kind in PROMPTED_KINDS else BLOCKS

    metrics = tuple(TOKEN_METRICS)  # the default first
    judges_texts = property(lambda self: self.metric.score is mean_of_texts)

    def fitted(self, spec: TaskSpec, label_space: LabelSpace, tokenizer: Any = None) -> WritingTask:
        """Adapt the task to a dataset of texts and the user's settings."""
        require_kind(self.name, label_space, self.kinds)
        task = replace(self, spec=spec, label_space=label_space, tokenizer=tokenizer)
        if not is_own_metric(task.metric.name):
            require_metric(self.name, task.metric.name, self.metrics)
        if task.judges_texts and label_space.kind not in PROMPTED_KINDS:
            raise DataError(
                f"{task.metric.name} needs prompts with completions, but the labels of these rows are of "
                f"kind {label_space.kind}; set --metric {self.metrics[0]}."
            )
        try:
            re.compile(spec.answer_pattern or "")
        except re.error as error:
            raise SpecError(
                f"task.answer_pattern {spec.answer_pattern!r} is not a regular expression ({error})."
            ) from error
        return task

    def encode(self, inputs: Rows, labels: Sequence[Any], tokenizer: Any, max_length: int) -> Encoded:
        """Turn rows into token features and labels of at most `max_length` tokens each."""
        if self.metric.name == EXACT_MATCH:
            missing = [text for text in labels if not _find_answer(text, self.spec.answer_pattern)]
            if missing:
                raise DataError(
                    f"task.answer_pattern finds no answer in {len(missing)} of {len(labels)} completions, "
                    f"such as {missing[0][-60:]!r}; correct the pattern or the rows."
                )
        texts = [text for (text,) in inputs]
        return self.model_type.encode(self.label_space.kind, texts, labels, tokenizer, max_length)

    def collate(self, examples: Sequence[Example], labels: Sequence[Any], pad_token_id: int) -> Batch:
        """Make a batch, padded on the right: features (B, T) and `labels` (B, U), -100 at padding."""
        return {**pad_features(examples, pad_token_id), "labels": pad(labels, IGNORED)}

    def placed(self, batch: Batch, place: Callable[[Tensor], Tensor]) -> Batch:
        """Copy a batch to its device, and the positions of its targets, which the CPU finds before."""
        positions = positions_of(self.model_type.targets(batch["labels"]))
        on_device = {name: place(tensor) for name, tensor in batch.items()}
        self._positions[on_device["labels"]] = place(positions)
        return on_device

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Compute the mean cross-entropy over the labelled tokens of the batch in nats, shape ()."""
        return mean_loss(self._run(model, batch))

    def n_terms(self, batch: Batch) -> int:
        """Count the labelled tokens of the batch that are predicted."""
        return int((self.model_type.targets(batch["labels"]) != IGNORED).sum())

    def evaluate(self, model: nn.Module, batches: Iterator[Batch], *, generates: bool = True) -> Evaluation:
        """Compute the metric, the mean loss over tokens, and a score per example, without gradients."""
        counts, texts = TokenCounts(), list[WrittenText]()
        with torch.inference_mode():
            for batch in batches:
                written = self._written(model, batch) if self.judges_texts and generates else []
                texts += written
                scores = self._text_scores(written) if written else []
                losses, hits = over_pieces(self._run(model, batch), losses_and_hits).unbind(1)
                is_counted = self.model_type.targets(batch["labels"]) != IGNORED
                counts.add(losses, hits, is_counted, scores)
        if self.judges_texts and not generates:
            return Evaluation(metric=None, loss=counts.mean_loss, example_scores=())
        return replace(counts.evaluation(self.metric), texts=tuple(texts))

    def _run(self, model: nn.Module, batch: Batch) -> HeadInputs:
        """Run the model up to its output layer, at the positions whose label counts."""
        features, labels = self.model_type.features(model, batch), batch["labels"]
        positions = self._positions.get(labels, None)  # type: ignore[no-untyped-call]
        return run_to_output(model, features, self.model_type.targets(labels), positions)

    def _written(self, model: nn.Module, batch: Batch) -> list[WrittenText]:
        """Generate a text for each example."""
        assert self.tokenizer is not None, "the task was fitted without a tokenizer"
        texts = self.model_type.generate(model, batch, self.tokenizer, self.max_new_tokens)
        answers = [last_answer(labels) for labels in batch["labels"].tolist()]
        inputs = batch["input_ids"].tolist()
        if self.peft_task_type == "CAUSAL_LM":  # the answer is in the same row
            inputs = [row[:start] for row, (start, _) in zip(inputs, answers, strict=True)]
        prompts, references = (
            self.tokenizer.batch_decode(ids, skip_special_tokens=True)
            for ids in (inputs, [answer for _, answer in answers])
        )
        return list(map(WrittenText, prompts, references, texts))

    def _text_scores(self, written: Sequence[WrittenText]) -> list[float]:
        """Score each generated text: 1 for the true answer, else 0; or by the user's function."""
        prompts, references, texts = map(list, zip(*written, strict=True))
        if is_own_metric(self.metric.name):
            return _own_scores(self.metric.name, texts, references, prompts)
        find = partial(_find_answer, pattern=self.spec.answer_pattern)
        pairs = [(find(text), find(truth)) for text, truth in zip(texts, references, strict=True)]
        # A true answer that was cut off is matched by nothing, not even by a text without an answer.
        return [float(truth is not None and text == truth) for text, truth in pairs]


def _own_scores(name: str, *columns: Sequence[str]) -> list[float]:
    """Call the user's function with texts, references and, if it takes them, prompts; check its scores."""
    score = own_function(name)
    try:
        inspect.signature(score).bind(*columns)
    except TypeError:
        columns = columns[:2]
    scores = [float(number) for number in score(*columns)]
    if len(scores) != len(columns[0]) or not all(map(math.isfinite, scores)):
        raise SpecError(
            f"--metric {name} returned {shortened(str(scores), 60)} for {len(columns[0])} texts; it should "
            "return one finite number per text, the larger the better."
        )
    return scores


def all_dropped(n_rows: int, longest: int, max_length: int) -> str:
    """Format the refusal if no row keeps the end of its completion; it has the length that would do."""
    return (
        f"All {n_rows} rows would be dropped, since their completions lose their end in {max_length} tokens; "
        f"the longest has {longest}: set --max-length to that if the model's context allows it, or shorten "
        "them."
    )


def _find_answer(text: str, pattern: str | None) -> str | None:
    """Return the first match, or its first group if there is one; None without a match.

    Without a pattern the answer is the whole text. Thoughts before an answer are removed first.
    """
    text = _THOUGHTS.sub("", text)
    if pattern is None:
        return text.strip()
    match = re.search(pattern, text)
    return None if match is None else match[1 if match.re.groups else 0].strip()

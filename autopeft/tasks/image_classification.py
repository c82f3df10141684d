"""Image classification: one label or several for an image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from autopeft.data import ImageFile
from autopeft.errors import DataError
from autopeft.extension import Batch, Encoded, Evaluation, Example, Target
from autopeft.records import TaskSpec
from autopeft.tasks._labelled import (
    METRICS,
    chosen_metric,
    drawn,
    evaluated,
    is_greater_better,
    label_tensor,
    losses,
    span_of,
)
from autopeft.tasks._padding import features

_AT_ONCE = 64  # images that the processor gets at once; chosen by hand
_KEPT = 2**28  # numbers of pixels that are kept ready, 1 GiB; beyond it images are read anew for each batch


@dataclass(frozen=True)
class ImageClassification:
    """Classification of images with cross-entropy, by the base model's own image processor."""

    name: str = "image-classification"
    form: str = "labelled-image"
    metric: str = "accuracy"
    peft_task_type: str | None = None  # `peft` has no word for it
    auto_class: str = "AutoModelForImageClassification"
    target: Target = field(default_factory=Target)
    notes: tuple[str, ...] = ()
    processor: Any = field(default=None, repr=False, compare=False)

    @property
    def metrics(self) -> tuple[str, ...]:
        """Those of the target's kind."""
        return tuple(METRICS[self.target.kind])

    @property
    def greater_is_better(self) -> bool:
        """As the metric has it."""
        return is_greater_better(self.metric)

    @property
    def score_span(self) -> float | None:
        """As the metric has it."""
        return span_of(self.metric)

    def fitted(self, spec: TaskSpec, target: Target, tokenizer: Any = None) -> ImageClassification:
        """The task for a dataset, with the image processor of the base model."""
        metric, notes = chosen_metric(self.name, spec, target)
        return replace(self, target=target, metric=metric, notes=notes, processor=tokenizer)

    def encode(
        self, inputs: Sequence[Sequence[Any]], labels: Sequence[Any], tokenizer: Any, max_length: int
    ) -> Encoded:
        """`pixel_values` (channels, height, width) per image; the files alone where there are very many."""
        files: list[ImageFile] = [file for (file,) in inputs]
        first = _pixels(files[:1], tokenizer)[0]
        examples: list[Example] = []
        for start in range(0, len(files), _AT_ONCE):
            chunk = files[start : start + _AT_ONCE]
            if first.numel() * len(files) <= _KEPT:
                examples += [{"pixel_values": pixels} for pixels in _pixels(chunk, tokenizer)]
            else:
                for file in chunk:
                    file.load()  # so that one that does not open is told before any work
                examples += [{"file": file} for file in chunk]
        return Encoded(examples=tuple(examples), labels=tuple(labels))

    def collate(self, examples: Sequence[Example], labels: Sequence[Any], pad_token_id: int) -> Batch:
        """`pixel_values` (B, channels, height, width) and `labels` (B,) or (B, C)."""
        if "file" in examples[0]:
            pixels = _pixels([example["file"] for example in examples], self.processor)
        else:
            pixels = torch.stack([example["pixel_values"] for example in examples])
        return {"pixel_values": pixels, "labels": label_tensor(self.target, labels)}

    def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """Mean cross-entropy in nats, shape ()."""
        return losses(self.target, _logits(model, batch), batch["labels"]).mean()

    def drawn_labels(self, logits: torch.Tensor, generator: torch.Generator) -> torch.Tensor | None:
        """Labels from the model's predictions (B, C), for `fisher_sampled`; None where they are classes."""
        return drawn(self.target, logits, generator)

    def evaluate(self, model: nn.Module, batches: Iterator[Batch]) -> Evaluation:
        """The metric, the mean loss, and one score per example."""
        return evaluated(self.target, self.metric, batches, lambda batch: _logits(model, batch))


def _pixels(files: Sequence[ImageFile], processor: Any) -> torch.Tensor:
    try:
        pixels: torch.Tensor = processor(images=[file.load() for file in files], return_tensors="pt")[
            "pixel_values"
        ]
    except (ValueError, TypeError) as error:
        raise DataError(
            f"The image processor cannot use {files[0].name} or one after it: {error}."
        ) from error
    return pixels.float()


def _logits(model: nn.Module, batch: Batch) -> torch.Tensor:
    """Scores (B, C) in fp32, whatever the model computes in."""
    logits: torch.Tensor = model(**features(batch)).logits
    return logits.float()


PART = ImageClassification()

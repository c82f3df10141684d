"""Image classification: one label or several for an image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch

from autopeft.data import ImageFile, ReadRows, read_images
from autopeft.errors import DataError
from autopeft.extension import Batch, Encoded, Example, Target
from autopeft.records import TaskSpec
from autopeft.tasks._labelled import LabelledTask, label_tensor

if TYPE_CHECKING:
    from typing_extensions import Self

_AT_ONCE = 64  # images that the processor gets at once; chosen by hand
_KEPT = 2**28  # numbers of pixels that are kept ready, 1 GiB; beyond it images are read anew for each batch


@dataclass(frozen=True)
class ImageClassification(LabelledTask):
    """Classification of images with cross-entropy, by the base model's own image processor."""

    name: str = "image-classification"
    read_rows: ReadRows = read_images
    auto_class: str = "AutoModelForImageClassification"
    processor: Any = field(default=None, repr=False, compare=False)

    def fitted(self, spec: TaskSpec, target: Target, tokenizer: Any = None) -> Self:
        """The task for a dataset, with the image processor of the base model."""
        return replace(super().fitted(spec, target), processor=tokenizer)

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


PART = ImageClassification()

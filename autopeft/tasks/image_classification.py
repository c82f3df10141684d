"""Image classification: one label or several for an image, by the base model's own image processor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from autopeft.data import ImageFile, read_images
from autopeft.errors import DataError
from autopeft.extension import Batch, Encoded, Example
from autopeft.tasks.parts.batches import Rows
from autopeft.tasks.parts.labelled import LabelledTask
from autopeft.tasks.parts.usual import IMAGES

_CHUNK = 64  # images that the processor gets at once; chosen by hand
_MAX_KEPT = 2**28  # pixel values kept in memory, 1 GiB; beyond it every batch reads its images again


def _encode(inputs: Rows, labels: Sequence[Any], tokenizer: Any, max_length: int) -> Encoded:
    """`pixel_values` (channels, height, width) per image, or its file where all pixels exceed `_MAX_KEPT`.

    `tokenizer` is the image processor; the sizes of all images are taken to be that of the first.
    """
    files: list[ImageFile] = [file for (file,) in inputs]
    is_kept = _pixels(files[:1], tokenizer)[0].numel() * len(files) <= _MAX_KEPT
    if is_kept:
        chunks = [files[start : start + _CHUNK] for start in range(0, len(files), _CHUNK)]
        examples = [{"pixel_values": pixels} for chunk in chunks for pixels in _pixels(chunk, tokenizer)]
    else:
        for file in files:
            file.load()  # raises now, and not in the middle of a training run
        examples = [{"file": file, "processor": tokenizer} for file in files]
    return Encoded(examples=tuple(examples), labels=tuple(labels))


def _collate_inputs(examples: Sequence[Example], pad_token_id: int) -> Batch:
    """`pixel_values` (B, channels, height, width)."""
    if "pixel_values" in examples[0]:
        return {"pixel_values": torch.stack([example["pixel_values"] for example in examples])}
    return {"pixel_values": _pixels([example["file"] for example in examples], examples[0]["processor"])}


def _pixels(files: Sequence[ImageFile], processor: Any) -> Tensor:
    """What the processor makes of images, shape (B, channels, height, width), fp32."""
    images = [file.load() for file in files]
    try:
        pixels: Tensor = processor(images=images, return_tensors="pt")["pixel_values"]
    except (ValueError, TypeError) as error:
        raise DataError(
            f"The image processor refuses {files[0].name} or one of the {len(files) - 1} after it ({error}); "
            "correct the images, or use another base model."
        ) from error
    return pixels.float()


PART = LabelledTask(
    name="image-classification",
    read_rows=read_images,
    auto_class="AutoModelForImageClassification",
    encode=_encode,
    collate_inputs=_collate_inputs,
    defaults=IMAGES,
)

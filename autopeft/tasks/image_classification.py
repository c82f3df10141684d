"""Image classification: one label or several for an image, read by the base model's image processor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from autopeft import data
from autopeft.errors import DataError, reason_of
from autopeft.plugins import Batch, Encoded, Example
from autopeft.tasks._shared.batches import Rows
from autopeft.tasks._shared.labelled import LabelledTask
from autopeft.tasks._shared.usual import IMAGES

_CHUNK = 64  # images that the processor gets at a time; heuristic
_MAX_KEPT = 2**28  # pixel values of a split in memory, 1 GiB; beyond it every batch reads its images again


def _encode(inputs: Rows, labels: Sequence[Any], tokenizer: Any, max_length: int) -> Encoded:
    """Run the processor, `tokenizer`, over all images; keep the files if there are very many."""
    files: list[data.ImageFile] = [file for (file,) in inputs]
    examples: list[Example] = []
    if _processed(files[:1], tokenizer)["pixel_values"].numel() * len(files) <= _MAX_KEPT:
        for start in range(0, len(files), _CHUNK):
            made = _processed(files[start : start + _CHUNK], tokenizer)
            examples += [dict(zip(made, row, strict=True)) for row in zip(*made.values(), strict=True)]
    else:
        for file in files:  # a broken one raises now, and not in the middle of a training run
            file.load()
        examples = [{"file": file, "processor": tokenizer} for file in files]
    return Encoded(examples=tuple(examples), labels=tuple(labels))


def _collate_inputs(examples: Sequence[Example], pad_token_id: int) -> Batch:
    """Stack `pixel_values` (B, channels, height, width) and the processor's other tensors, row by row."""
    if "file" in examples[0]:
        return _processed([example["file"] for example in examples], examples[0]["processor"])
    return {name: torch.stack([example[name] for example in examples]) for name in examples[0]}


def _processed(files: Sequence[data.ImageFile], processor: Any) -> Batch:
    """Run the processor over some images; return its tensors, a row per image, `pixel_values` in float32.

    SigLIP 2's has patches, their mask, and the number of rows and columns.
    """
    images = [file.load() for file in files]
    try:
        made = processor(images=images, return_tensors="pt")
    except (ValueError, TypeError) as error:
        raise DataError(
            f"The image processor refuses {files[0].path} or one of the {len(files) - 1} after it "
            f"({reason_of(error)}); correct the images, or use another base model."
        ) from error
    return {
        name: tensor.float() if name == "pixel_values" else tensor
        for name, tensor in made.items()
        if isinstance(tensor, Tensor)
    }


PLUGIN = LabelledTask(
    name="image-classification",
    reader="read_images",
    auto_class="AutoModelForImageClassification",
    encode=_encode,
    collate_inputs=_collate_inputs,
    defaults=IMAGES,
)

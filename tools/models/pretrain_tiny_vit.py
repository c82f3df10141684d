"""Pretrain a tiny vision transformer on half of the classes of an image set, and write the others next to it.

Usage: python tools/models/pretrain_tiny_vit.py OUT [--data FOLDER] [--steps N] [--seed S]

Without --data the set is scikit-learn's digits (8 × 8 grey pixels): 0 to 4 are learned here, 5 to 9 are
written as folders of classes. FOLDER is any set that `autopeft search --task image-classification`
reads. OUT gets `model` (what transformers loads) and `data` (train, validation and test by class). Then:

    autopeft search --task image-classification --model OUT/model --data OUT/data --budget 1%
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from autopeft.data import load, read_images
from autopeft.types import DataSpec

SIDE = 32  # pixels that images are resized to
SHAPE = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4}
Pictures = list[tuple[Any, str]]  # an image in RGB and its class


def digits(seed: int) -> dict[str, Pictures]:
    """Load scikit-learn's digits, 60/10/30 by class."""
    images, labels = load_digits(return_X_y=True)
    pictures = [
        (Image.fromarray((image.reshape(8, 8) * 15.9).astype(np.uint8)).convert("RGB"), str(label))
        for image, label in zip(images, labels, strict=True)
    ]
    classes = [label for _, label in pictures]
    rest, test = train_test_split(pictures, test_size=0.3, stratify=classes, random_state=seed)
    stratify = [label for _, label in rest]
    train, validation = train_test_split(rest, test_size=1 / 7, stratify=stratify, random_state=seed)
    return {"train": train, "validation": validation, "test": test}


def of_folder(folder: str, seed: int) -> dict[str, Pictures]:
    """Read a dataset of the user; rows that were cut out of train go back to it."""
    dataset = load(DataSpec(source=folder), seed=seed, read_rows=read_images)
    splits = {
        "train": (dataset.train, dataset.search),
        "validation": (dataset.confirm,),
        "test": (dataset.test,),
    }
    return {
        name: [
            (file.load(), dataset.label_names[label])
            for part in parts
            for (file,), label in zip(part.inputs, part.labels, strict=True)
        ]
        for name, parts in splits.items()
    }


def pretrain(pictures: Pictures, processor: Any, *, steps: int, seed: int) -> Any:
    """Train a vision transformer from scratch to classify some pictures."""
    names = sorted({label for _, label in pictures})
    pixels = processor(images=[image for image, _ in pictures], return_tensors="pt")["pixel_values"].float()
    labels = torch.tensor([names.index(label) for _, label in pictures])
    torch.manual_seed(seed)
    config = transformers.ViTConfig(**SHAPE, image_size=SIDE, patch_size=4, num_labels=len(names))
    model = transformers.ViTForImageClassification(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2e-3, total_steps=steps)
    for step in range(steps):
        rows = torch.randint(len(labels), (64,))
        loss = torch.nn.functional.cross_entropy(model(pixels[rows]).logits, labels[rows])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        if step % 50 == 0 or step == steps - 1:
            print(f"step {step + 1} of {steps}: loss {float(loss.detach()):.3f}", flush=True)
    return model.eval()


def write(pictures: Pictures, folder: Path) -> None:
    """Write one folder per class."""
    for index, (image, label) in enumerate(pictures):
        (folder / label).mkdir(parents=True, exist_ok=True)
        image.save(folder / label / f"{index:05d}.png")


def main(arguments: Sequence[str] | None = None) -> None:
    """Pre-train and write."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("out", type=Path)
    parser.add_argument("--data")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    splits = of_folder(given.data, given.seed) if given.data else digits(given.seed)
    names = sorted({label for _, label in splits["train"]})
    known = set(names[: (len(names) + 1) // 2])
    processor = ViTImageProcessorPil(size={"height": SIDE, "width": SIDE})
    model = pretrain(
        [pair for pair in splits["train"] if pair[1] in known], processor, steps=given.steps, seed=given.seed
    )
    model.save_pretrained(given.out / "model")
    processor.save_pretrained(given.out / "model")
    for name, pictures in splits.items():
        write([pair for pair in pictures if pair[1] not in known], given.out / "data" / name)


if __name__ == "__main__":
    main()

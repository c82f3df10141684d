"""Images: read from folders, tables, zip files and datasets; pixels as the processor gives; faulty ones."""

from __future__ import annotations

from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pytest
import torch
import transformers
from PIL import Image
from toys.families import CLIP_TEXT, VISION_TOWER
from toys.tasks import image_file, image_processor, make_toy

import autopeft.tasks.image_classification as images
from autopeft import model
from autopeft.data import load, read_images
from autopeft.errors import DataError, ModelError
from autopeft.model import BaseModel
from autopeft.plugins import discover
from autopeft.train import encode_splits
from autopeft.types import DataSpec, ModelSpec, TaskSpec

try:
    from transformers.models.siglip2.image_processing_pil_siglip2 import Siglip2ImageProcessorPil
except ModuleNotFoundError:  # older releases of transformers have one class, by Pillow
    from transformers import Siglip2ImageProcessor as Siglip2ImageProcessorPil

PLUGIN = discover("autopeft.tasks")["image-classification"]


def save(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (6, 6, 3), dtype=np.uint8)).save(path)
    return path


def read(source, **spec):
    return load(DataSpec(source=str(source), **spec), seed=0, read_rows=read_images)


def sizes(data):
    return [len(split.inputs) for split in (data.train, data.search, data.confirm, data.test)]


def make_table(folder, n=60, **more):
    rows = [{"file": f"pictures/{i}.png", "label": "ab"[i % 2], **more} for i in range(n)]
    for i, row in enumerate(rows):
        save(folder / row["file"], i)
    return rows


@pytest.fixture
def by_table(tmp_path):
    """60 images with a table next to them."""
    folder = tmp_path / "table"
    pd.DataFrame(make_table(folder)).to_csv(folder / "train.csv", index=False)
    return folder


def test_folders_of_classes_tables_and_datasets_give_the_same_images(tmp_path, by_table):
    rows = pd.read_csv(by_table / "train.csv").to_dict("records")
    folders = tmp_path / "folders"
    for row in rows:
        label_space = folders / row["label"] / Path(row["file"]).name
        label_space.parent.mkdir(parents=True, exist_ok=True)
        label_space.write_bytes((by_table / row["file"]).read_bytes())
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    cells = [{"image": str(by_table / row["file"]), "label": row["label"]} for row in rows]
    datasets.Dataset.from_list(cells, features=features).save_to_disk(str(tmp_path / "saved"))
    datasets_read = [read(source) for source in (by_table, folders, tmp_path / "saved")]
    pairs = [
        {(file.digest, data.label_names[label]) for split in (data.train, data.search, data.confirm)
         for (file,), label in zip(split.inputs, split.labels, strict=True)}
        for data in datasets_read
    ]  # fmt: skip
    assert len(pairs[0]) == 60 and pairs[0] == pairs[1] == pairs[2]
    assert datasets_read[0].fingerprint == datasets_read[2].fingerprint


def test_folders_named_after_splits_are_kept_apart_and_repeated_images_removed(tmp_path):
    for i in range(80):
        save(tmp_path / "train" / "ab"[i % 2] / f"{i}.png", i)
    for i in (200, 201, 3):  # the last one is in train too
        save(tmp_path / "test" / "ab"[i % 2] / f"{i}.png", i)
    data = read(tmp_path)
    assert data.duplicates_removed == 1
    assert sum(sizes(data)[:3]) == 79 and sizes(data)[3] == 3


def test_encoded_pixels_are_those_of_the_processor_whatever_the_mode(monkeypatch):
    toy = make_toy(PLUGIN, None)
    files = [file for (file,) in toy.inputs]
    expected = toy.tokenizer(images=[file.load() for file in files], return_tensors="pt")["pixel_values"]
    kept = toy.encoded()
    monkeypatch.setattr(images, "_MAX_KEPT", 0)  # as if there were very many
    again = toy.encoded()
    assert "file" in again.examples[0]
    for made in (kept, again):
        batch = toy.task.collate(made.examples, made.labels, 0)
        torch.testing.assert_close(batch["pixel_values"], expected.float())


def test_grey_images_and_palettes_become_three_channels():
    grey = image_file(np.arange(100).reshape(10, 10))
    assert grey.load().mode == "RGB"
    made = PLUGIN.encode([(grey,)], [0], image_processor(), 1)
    assert made.examples[0]["pixel_values"].shape == (3, 8, 8)


def test_image_that_does_not_open_is_named(by_table):
    (by_table / "pictures" / "7.png").write_bytes(b"no image")
    data = read(by_table)
    with pytest.raises(DataError, match=r"pictures/7\.png"):
        for split in (data.train, data.search, data.confirm):
            PLUGIN.encode(split.inputs, split.labels, image_processor(), 1)


def test_missing_images_are_refused(by_table):
    (by_table / "pictures" / "7.png").unlink()
    with pytest.raises(DataError, match=r"pictures/7\.png"):
        read(by_table)


def test_vision_model_is_loaded_with_its_processor_and_a_head_of_the_right_size(tmp_path):
    toy = make_toy(PLUGIN, None)
    toy.module.save_pretrained(tmp_path)
    toy.tokenizer.save_pretrained(tmp_path)
    base = model.load(ModelSpec(id=str(tmp_path)), auto_class=PLUGIN.auto_class, label_names=("a", "b", "c"))
    assert base.module.classifier.out_features == 3 and base.head_names == ("classifier",)
    assert base.pad_token_id == 0
    assert base.tokenizer.size == toy.tokenizer.size


def test_images_of_a_size_that_the_model_does_not_take_are_refused_before_any_trial(by_table):
    toy = make_toy(PLUGIN, None)
    base = BaseModel(toy.module, image_processor(16), name="tiny vit", untrained=frozenset())
    data = read(by_table)
    task = PLUGIN.fitted(TaskSpec(), data.label_space, base.tokenizer)
    with pytest.raises(ModelError, match="16, 16"):
        encode_splits(data, base=base, task=task, max_length=8)


def test_a_model_of_patches_gets_their_mask_and_shapes_too(by_table):
    """SigLIP 2 cuts an image of any shape into patches, and fails without the number of rows and columns."""
    shape = {**VISION_TOWER, "num_patches": 16, "attention_dropout": 0.0}
    config = transformers.Siglip2Config(vision_config=shape, text_config=CLIP_TEXT)
    module = transformers.Siglip2ForImageClassification(config).eval()
    processor = Siglip2ImageProcessorPil(patch_size=4, max_num_patches=16)
    data = read(by_table)
    task = PLUGIN.fitted(TaskSpec(), data.label_space, processor)
    base = BaseModel(module, processor, name="tiny siglip2", untrained=frozenset())
    train = encode_splits(data, base=base, task=task, max_length=8)["train"]
    batch = task.collate(train.examples[:3], train.labels[:3], 0)
    images = [file.load() for (file,) in data.train.inputs[:3]]
    with torch.no_grad():
        logits = module(**processor(images=images, return_tensors="pt")).logits
    expected = torch.nn.functional.cross_entropy(logits, batch["labels"])
    assert task.evaluate(module, iter([batch])).loss == pytest.approx(float(expected), abs=1e-6)

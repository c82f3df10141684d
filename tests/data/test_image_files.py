"""Image files: 16 bits, turned by a camera, hidden folders, other suffixes, tables of paths."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from transformers.image_utils import load_image

from autopeft.data import ImageFile, load, read_images
from autopeft.errors import DataError
from autopeft.types import DataSpec


def pixels(seed, *, peak=255, dtype=np.uint8, shape=(6, 6)):
    """Random values of an image; the largest one is the peak."""
    values = np.random.default_rng(seed).integers(0, peak + 1, shape)
    values.flat[0] = peak
    return values.astype(dtype)


def save(path, values, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path, **options)
    return path


def save_classes(folder, *names, n=30, suffix=".png"):
    for seed, name in enumerate(names):
        for i in range(n):
            save(folder / name / f"{i}{suffix}", pixels(1000 * seed + i))


def read(source):
    return load(DataSpec(source=str(source)), seed=0, read_rows=read_images)


def loaded(data):
    return {
        file.path: np.asarray(file.load())
        for split in (data.train, data.search, data.confirm)
        for (file,) in split.inputs
    }


@pytest.mark.parametrize(("suffix", "dtype"), [(".png", np.uint16), (".tif", np.int32), (".tif", np.float32)])
def test_an_image_of_more_than_eight_bits_is_refused(tmp_path, suffix, dtype):
    """Pillow alone would make all that is brighter than 255 white. `try` loads images without `read`."""
    deep = tmp_path / f"deep{suffix}"
    save(deep, pixels(0, dtype=dtype))
    with pytest.raises(DataError, match="8 bits"):
        ImageFile(digest="", path=str(deep)).load()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_upright_by_their_exif_data(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / "turned.png", pixels(1, shape=(4, 8, 3)), exif=exif)
    image = ImageFile(digest="", path=str(path)).load()
    np.testing.assert_equal(np.asarray(image), np.asarray(load_image(str(path))))


def test_hidden_folders_and_files_that_are_not_images_are_left_out(tmp_path):
    save_classes(tmp_path, "cat", "dog")
    save_classes(tmp_path, ".ipynb_checkpoints", "cat/.ipynb_checkpoints", n=3)
    save_classes(tmp_path, "cat", n=1, suffix=".JPEG")
    for name in ("._1.png", "a.txt", "c.SVG"):
        (tmp_path / "cat" / name).write_text("x")
    data = read(tmp_path)
    assert data.label_names == ("cat", "dog")
    assert len(loaded(data)) == 61


@pytest.mark.parametrize("names", [("train", "test"), ("car", "bus", "train")])
def test_classes_named_like_a_split_are_refused(tmp_path, names):
    save_classes(tmp_path, *names)
    with pytest.raises(DataError, match="named like a split"):
        read(tmp_path)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_tables_in_the_folders_of_splits_hold_paths_next_to_them(tmp_path, suffix):
    for seed, (split, n) in enumerate((("train", 90), ("validation", 30), ("test", 20))):
        for i in range(n):
            save(tmp_path / split / f"{i}.png", pixels(1000 * seed + i))
        frame = pd.DataFrame(
            {"file_name": [f"{i}.png" for i in range(n)], "label": ["ab"[i % 2] for i in range(n)]}
        )
        if suffix == ".csv":
            frame.to_csv(tmp_path / split / "metadata.csv", index=False)
        else:
            frame.to_json(tmp_path / split / "metadata.jsonl", orient="records", lines=True)
    data = read(tmp_path)
    assert (len(data.confirm.inputs), len(data.test.inputs)) == (30, 20)
    for name, splits in (("train", (data.train, data.search)), ("validation", (data.confirm,))):
        paths = {file.path for split in splits for (file,) in split.inputs}
        assert paths == {str(path) for path in (tmp_path / name).glob("*.png")}
    labels = {file.path: label for (file,), label in zip(data.test.inputs, data.test.labels, strict=True)}
    assert labels == {str(tmp_path / "test" / f"{i}.png"): i % 2 for i in range(20)}


def test_bytes_in_a_column_without_a_type_are_images(tmp_path):
    labels = [i % 2 for i in range(60)]
    contents = [save(tmp_path / f"{i}.png", pixels(i)).read_bytes() for i in range(60)]
    path = tmp_path / "rows.parquet"
    pd.DataFrame({"image": contents, "label": labels}).to_parquet(path)
    assert len(read(path).label_names) == 2
    pd.DataFrame({"image": [[[0, 1]]] * 60, "label": labels}).to_parquet(path)
    with pytest.raises(DataError, match="column image"):
        read(path)

"""Whether all of an input is read, and no row lands where it does not belong."""

from __future__ import annotations

import io
import json

import datasets
import numpy as np
import pytest
from PIL import Image

from autopeft.data import load, read_images, read_texts
from autopeft.errors import DataError
from autopeft.types import DataSpec

LONG = "some words about number"


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def read(path, read_rows=read_texts, **spec):
    return load(DataSpec(source=str(path), **spec), seed=0, read_rows=read_rows)


@pytest.mark.parametrize(
    "columns",
    [
        ("question", "passage"),
        ("question", "answer"),
        ("title", "content"),
    ],
)
def test_both_texts_of_a_row_are_read(tmp_path, columns):
    """As BoolQ, WikiQA and Amazon's reviews have them: many rows have the same first text."""
    rows = [
        {columns[1]: f"{LONG} {i}", columns[0]: f"why {i // 10}", "label": "ab"[i % 2]} for i in range(100)
    ]
    data = read(write(tmp_path / "rows.jsonl", rows))
    assert data.text_columns == columns and data.duplicates_removed == 0


def test_a_text_with_titles_that_may_be_missing_is_read_alone(tmp_path):
    rows = [
        {"title": f"a good title {i}" if i % 3 else "", "text": f"{LONG} {i}", "label": "ab"[i % 2]}
        for i in range(100)
    ]
    data = read(write(tmp_path / "rows.jsonl", rows))
    assert data.text_columns == ("text",)


def test_a_class_that_duplicates_take_away_is_refused(tmp_path):
    rows = [{"text": "the same" if i % 2 else f"{LONG} {i}", "label": "ab"[i % 2]} for i in range(120)]
    rows.insert(0, {"text": "the same", "label": "a"})
    with pytest.raises(DataError, match="--text-column"):
        read(write(tmp_path / "rows.jsonl", rows))


def png(shade):
    stream = io.BytesIO()
    noise = np.random.default_rng(shade).integers(0, 256, (8, 8, 3)).astype(np.uint8)
    Image.fromarray(noise).save(stream, format="JPEG", quality=60)
    return stream.getvalue()


def test_bytes_in_a_column_without_a_type_are_images(tmp_path):
    table = datasets.Dataset.from_dict(
        {"image": [png(i) for i in range(60)], "label": [i % 2 for i in range(60)]}
    )
    table.to_parquet(str(tmp_path / "rows.parquet"))
    assert len(read(tmp_path / "rows.parquet", read_images).label_names) == 2
    lists = datasets.Dataset.from_dict({"image": [[[0, 1]]] * 60, "label": [i % 2 for i in range(60)]})
    lists.to_parquet(str(tmp_path / "lists.parquet"))
    with pytest.raises(DataError, match="column image"):
        read(tmp_path / "lists.parquet", read_images)

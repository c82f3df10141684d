"""Cells as programs write them: numpy's lists in a CSV, vectors, bytes, floats for whole numbers."""

from __future__ import annotations

import time

import numpy as np
import pandas as pd
import pytest

from autopeft.data import load, read_language, read_texts, read_tokens
from autopeft.data.cells import restore_cells
from autopeft.errors import DataError
from autopeft.types import DataSpec

N = 90
PLUGINS = ("train", "search", "confirm")


def read(source, read_rows=read_texts, **spec):
    return load(DataSpec(source=str(source), **spec), seed=0, read_rows=read_rows)


def write(path, rows):
    frame = pd.DataFrame(rows)
    frame.to_parquet(path) if path.suffix == ".parquet" else frame.to_csv(path, index=False)
    return path


def cells(data):
    """Each input with its label as written, over all splits; several labels sorted."""
    names = data.label_names

    def written(label):
        if isinstance(label, tuple):
            return tuple(names[i] for i in label)
        return names[label] if isinstance(label, int) else label

    splits = [getattr(data, part) for part in PLUGINS]
    return {
        inputs: written(label)
        for split in splits
        for inputs, label in zip(split.inputs, split.labels, strict=True)
    }


@pytest.mark.parametrize(
    ("tokens", "tags"),
    [
        (["it's", 'a "b"'], ["O", "B-X"]),
        (["a", "b"], [0, 1]),
        ([f"w{i}" for i in range(1200)], ["O"] * 1200),
    ],
    ids=["words", "numbers", "shortened"],
)
def test_lists_that_numpy_wrote_are_refused(tmp_path, tokens, tags):
    """Python would join their strings, and blanks would cut them into tokens with brackets."""
    rows = [{"tokens": np.array(tokens), "tags": np.array(tags)} for _ in range(N)]
    with pytest.raises(DataError, match=r"^Column t\w+ holds a list without commas, as numpy writes it \(\["):
        read(write(tmp_path / "rows.csv", rows), read_tokens)


@pytest.mark.parametrize("is_list", [False, True])
def test_bytes_are_read_as_utf8(tmp_path, is_list):
    rows = [{"text": f"käse {i}".encode(), "label": b"a" if i % 2 else "b\u00e9".encode()} for i in range(N)]
    if is_list:
        rows = [row | {"label": [row["label"]]} for row in rows]
    data = read(write(tmp_path / "rows.parquet", rows))
    assert {text for (text,) in cells(data)} == {f"käse {i}" for i in range(N)}
    assert data.label_names == ("a", "bé")


def test_bytes_that_are_no_text_are_refused(tmp_path):
    rows = [{"text": b"\xff\xfe%d" % i, "label": i % 2} for i in range(N)]
    with pytest.raises(DataError, match=r"^Column text holds bytes that are no UTF-8 text \(b'\\xff"):
        read(write(tmp_path / "rows.parquet", rows))


def test_whole_numbers_stay_whole_beside_a_missing_cell_and_fractions_stay_fractions(tmp_path):
    rows = [{"question": f"how many {i}?", "answer": i % 3 if i else None} for i in range(N)]
    data = read(write(tmp_path / "rows.parquet", rows), read_language)
    assert set(data.train.labels) == {"0", "1", "2"}
    halves = [row | {"answer": i / 2 if i else None} for i, row in enumerate(rows)]
    data = read(write(tmp_path / "rows.parquet", halves), read_language)
    assert cells(data) == {(f"how many {i}?",): str(i / 2) for i in range(1, N)}


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_group_that_two_files_spell_differently_is_one_group(tmp_path, suffix):
    train = [{"text": f"number {i}", "label": i % 2, "user": i // 4} for i in range(200)]
    train[-1]["user"] = None  # which makes the column one of floats
    held_out = [{"text": f"other {i}", "label": i % 2, "user": f"{i} "} for i in range(10)]
    write(tmp_path / f"train{suffix}", train)
    write(tmp_path / f"validation{suffix}", held_out)
    data = read(tmp_path, group_column="user")
    seen = {int(text.split()[1]) // 4 for part in (data.train, data.search) for (text,) in part.inputs}
    assert seen == set(range(10, 50))


@pytest.mark.parametrize("piece", ["\\'word ", "'a' ", "1 ", "{} ", "'"])
def test_long_texts_in_brackets_are_read_at_once(piece):
    texts = ["[" + piece * 50_000 + "x"] * 2 + ["[INST] number"]
    start = time.process_time()
    assert restore_cells(texts, "text") == texts
    assert time.process_time() - start < 2

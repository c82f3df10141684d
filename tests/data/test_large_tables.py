"""Tables of many columns or rows: a look at each costs little, and messages do not list all of them."""

from __future__ import annotations

import sys

import datasets
import numpy as np
import pandas as pd
import pytest

from autopeft.data import load, read_choices, read_language, read_texts, read_tokens
from autopeft.data.sources import listed
from autopeft.errors import DataError
from autopeft.records import DataSpec

N = 1000  # rows, as many as are looked at


def write(path, n_columns, **columns):
    frame = {f"f{i}": np.arange(N) + 2 for i in range(n_columns)}
    texts = [f"the sentence of row {i}" for i in range(N)]
    pd.DataFrame(frame | {"text": texts, "label": ["a", "b"] * (N // 2)} | columns).to_parquet(path)
    return DataSpec(source=str(path))


def n_calls(act):
    """How many functions in Python are called, which is the same on every machine."""
    n = 0

    def count(frame, event, arg):
        nonlocal n
        n += event == "call"

    sys.setprofile(count)
    try:
        act()
    finally:
        sys.setprofile(None)
    return n


def test_a_column_of_numbers_costs_less_than_a_call_for_each_of_its_cells(tmp_path):
    few, many = (write(tmp_path / f"{n}.parquet", n) for n in (20, 120))
    read_texts(few, [])  # what is called once alone is called here
    calls = [n_calls(lambda spec=spec: read_texts(spec, [])) for spec in (few, many)]
    assert calls[1] - calls[0] < 100 * N


def test_a_table_of_many_columns_is_read_as_one_of_few(tmp_path):
    narrow, wide = (load(write(tmp_path / f"{n}.parquet", n), seed=0) for n in (0, 300))
    assert narrow.fingerprint == wide.fingerprint and narrow.target == wide.target


@pytest.mark.parametrize("read", [read_texts, read_tokens, read_choices, read_language])
def test_an_error_lists_the_first_of_many_columns(tmp_path, read):
    pd.DataFrame({f"f{i}": [1, 2] for i in range(500)}).to_parquet(tmp_path / "rows.parquet")
    with pytest.raises(DataError, match=r"f0, f1, .*f24 and 475 more[;.]"):
        read(DataSpec(source=str(tmp_path / "rows.parquet")), [])


def test_an_error_shortens_long_names_of_columns(tmp_path):
    pd.DataFrame({"first word " * 90: [1, 2], "x": [1, 2]}).to_parquet(tmp_path / "rows.parquet")
    with pytest.raises(DataError, match=r"among (first word ){5}firs…, x; "):
        read_texts(DataSpec(source=str(tmp_path / "rows.parquet")), [])


def test_the_note_on_columns_that_are_not_read_names_the_first(tmp_path):
    more = {f"note{i:03}": [f"these are other words {i}"] * N for i in range(300)}
    data = load(write(tmp_path / "rows.parquet", 0, **more), seed=0)
    expected = "Columns note000, note001, note002, note003 and 296 more hold texts too"
    assert any(note.startswith(expected) for note in data.notes)
    assert listed(["a", "b", "c"]) == "a, b and c"


def test_columns_of_images_are_not_decoded_to_see_whether_they_hold_flags(tmp_path):
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.Value("string"), "photo": datasets.Image()}
    )
    broken = {"bytes": b"no image", "path": None}
    rows = [{"text": f"row {i} of it", "label": "ab"[i % 2], "photo": broken} for i in range(60)]
    datasets.Dataset.from_list(rows, features=features).to_parquet(tmp_path / "rows.parquet")
    assert load(DataSpec(source=str(tmp_path / "rows.parquet")), seed=0).label_names == ("a", "b")


def test_a_row_beyond_max_examples_costs_few_calls(tmp_path):
    specs = [DataSpec(source=str(tmp_path / f"{n}.parquet"), max_examples=100) for n in (2000, 4000)]
    for spec, n in zip(specs, (2000, 4000), strict=True):
        texts = [f"sentence {i}" for i in range(n)]
        pd.DataFrame({"text": texts, "label": ["a", "b"] * (n // 2)}).to_parquet(spec.source)
    load(specs[0], seed=0)
    calls = [n_calls(lambda spec=spec: load(spec, seed=0)) for spec in specs]
    assert calls[1] - calls[0] < 45 * 2000  # to look at a row 30 times, and not to decode it by itself

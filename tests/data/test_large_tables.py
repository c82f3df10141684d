"""Tables of many columns or rows: little work for each, and errors do not list all of them."""

from __future__ import annotations

import sys

import numpy as np
import pandas as pd
import pytest

from autopeft.data import load, read_language, read_texts, read_tokens
from autopeft.errors import DataError
from autopeft.types import DataSpec

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
    read_texts(few)  # what is called once alone is called here
    calls = [n_calls(lambda spec=spec: read_texts(spec)) for spec in (few, many)]
    assert calls[1] - calls[0] < 100 * N


@pytest.mark.parametrize("read", [read_texts, read_tokens, read_language])
def test_an_error_lists_the_first_of_many_columns(tmp_path, read):
    pd.DataFrame({f"f{i}": [1, 2] for i in range(500)}).to_parquet(tmp_path / "rows.parquet")
    with pytest.raises(DataError, match="f24 and 475 more"):
        read(DataSpec(source=str(tmp_path / "rows.parquet")))


def test_a_row_beyond_max_examples_costs_few_calls(tmp_path):
    specs = [DataSpec(source=str(tmp_path / f"{n}.parquet"), max_examples=100) for n in (2000, 4000)]
    for spec, n in zip(specs, (2000, 4000), strict=True):
        texts = [f"sentence {i}" for i in range(n)]
        pd.DataFrame({"text": texts, "label": ["a", "b"] * (n // 2)}).to_parquet(spec.source)
    load(specs[0], seed=0)
    calls = [n_calls(lambda spec=spec: load(spec, seed=0)) for spec in specs]
    assert calls[1] - calls[0] < 45 * 2000  # to look at a row 30 times, and not to decode it by itself

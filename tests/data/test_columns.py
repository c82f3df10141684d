"""Times as files write them: whole seconds and fractions, cells of datetimes, offsets, and blanks."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pandas as pd
import pytest

from autopeft.data import load, read_texts
from autopeft.errors import DataError, UnknownNameError
from autopeft.types import DataSpec

FIRST = dt.datetime(2020, 1, 1)
N = 60
# Every third time lies on a whole second, which str() and isoformat() write without a fraction.
TIMES = [FIRST + dt.timedelta(seconds=i, microseconds=250_000 * (i % 3)) for i in range(N)]
ORDER = np.random.default_rng(0).permutation(N).tolist()


def rows_at(times):
    """Shuffled rows whose text says their place in time."""
    return [{"text": f"sentence {i}", "label": "ab"[i % 2], "at": times[i]} for i in ORDER]


def read(path, rows, read_rows=read_texts):
    frame = pd.DataFrame(rows)
    if path.suffix == ".csv":
        frame.to_csv(path, index=False)
    elif path.suffix == ".jsonl":
        frame.to_json(path, orient="records", lines=True, date_format="iso")
    else:
        frame.to_parquet(path)
    return load(DataSpec(source=str(path), time_column="at"), seed=0, read_rows=read_rows)


def places(split):
    return [int(text.split()[-1]) for (text,) in split.inputs]


@pytest.mark.parametrize(
    ("suffix", "written"),
    [
        (".parquet", lambda time: time),
        (".csv", str),
        (".parquet", dt.datetime.isoformat),
        (
            ".csv",
            lambda time: time.replace(tzinfo=dt.timezone(dt.timedelta(hours=time.second % 3))).isoformat(),
        ),
    ],
    ids=["datetime", "str", "iso", "offsets"],
)
def test_rows_are_in_order_of_time_however_it_is_written(tmp_path, suffix, written):
    times = [written(time) for time in TIMES]
    # Python's parser says which time is earlier, as offsets move the times by hours.
    is_iso = isinstance(times[0], str) and times[0].startswith("2020")
    known = [dt.datetime.fromisoformat(time) for time in times] if is_iso else TIMES
    data = read(tmp_path / f"rows{suffix}", rows_at(times))
    order = [*places(data.train), *places(data.search), *places(data.confirm)]
    assert [known[i] for i in order] == sorted(known)


@pytest.mark.parametrize(
    ("suffix", "times"),
    [(".parquet", TIMES), (".csv", [str(t) for t in TIMES]), (".jsonl", [float(i) for i in range(N)])],
)
def test_row_without_time_is_refused(tmp_path, suffix, times):
    rows = rows_at(times)
    rows[16]["at"] = None
    with pytest.raises(DataError, match="Row 17 of train has no time"):
        read(tmp_path / f"rows{suffix}", rows)


def test_rows_without_a_label_do_not_shift_the_row_that_an_error_names(tmp_path):
    rows = [row | {"label": i * 0.25} for i, row in enumerate(rows_at(TIMES))]
    rows[3]["label"] = rows[4]["label"] = None
    (tmp_path / "data").mkdir()
    timeless = [row | {"at": None} if i == 16 else row for i, row in enumerate(rows)]
    with pytest.raises(DataError, match="Row 17 of train has no time"):
        read(tmp_path / "rows.csv", timeless)
    pd.DataFrame(rows).to_csv(tmp_path / "data" / "train.csv", index=False)
    rows[9]["label"] = "many"
    pd.DataFrame(rows).to_csv(tmp_path / "data" / "test.csv", index=False)
    with pytest.raises(DataError, match="'many' in row 10 of test"):
        load(DataSpec(source=str(tmp_path / "data")), seed=0)


@pytest.mark.parametrize("written", ["%d/%m/%Y", "%d.%m.%y", "%m-%d-%Y 10:00", "%d/%m/%Y 10:00 UTC"])
def test_dates_that_may_be_read_in_several_orders_are_refused(tmp_path, written):
    times = [dt.datetime(2024, 1 + i % 5, 1 + i // 5).strftime(written) for i in range(N)]
    with pytest.raises(DataError, match="YYYY-MM-DD"):
        read(tmp_path / "rows.csv", rows_at(times))


@pytest.mark.parametrize(("usual", "faulty"), [("2024-05-01", "soon"), ("2024-05-01", "13/05/2024")])
def test_a_time_that_cannot_be_read_is_quoted(tmp_path, usual, faulty):
    rows = rows_at([usual] * N)
    rows[16]["at"] = faulty
    with pytest.raises(DataError, match=faulty):
        read(tmp_path / "rows.csv", rows)


def test_several_columns_in_one_flag_are_refused(tmp_path):
    rows = pd.DataFrame({"a": ["x", "y"] * 30, "b": range(60), "label": ["p", "q"] * 30})
    rows.to_csv(tmp_path / "rows.csv", index=False)
    with pytest.raises(UnknownNameError, match="Repeat the flag"):
        load(
            DataSpec(source=str(tmp_path / "rows.csv"), text_columns=("a, b",)), seed=0, read_rows=read_texts
        )
